// Builds the window (and Electron's main and preload parts) when a source is newer than what was built last.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fail, newestChange, root, say } from './toolchain.mjs';

const SOURCES = ['src-renderer', 'src-core', 'src-main', 'electron.vite.config.ts', 'package-lock.json'];
const stamp = join(root, 'out/.built');

export function ensureBuilt(node) {
  const newest = newestChange(SOURCES);
  if (existsSync(stamp) && statSync(stamp).mtimeMs > newest) return;
  say('Building …');
  const started = Date.now();
  const tool = join(root, 'node_modules/electron-vite/bin/electron-vite.js');
  const { status, stdout, stderr, error } = spawnSync(node, [tool, 'build', '--logLevel', 'warn'], {
    cwd: root,
    encoding: 'utf8',
  });
  if (error) fail(`the build could not be started: ${error.message}`);
  if (status !== 0) fail(`${stdout}${stderr}The build failed.`);
  mkdirSync(join(root, 'out'), { recursive: true });
  writeFileSync(stamp, '');
  say(`Built in ${((Date.now() - started) / 1000).toFixed(1)} s.`);
}
