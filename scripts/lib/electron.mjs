// Electron's binary: 100 MB and more that npm does not bring by itself. It is fetched once, by Electron's own
// installer; where that cannot work, this is remembered for a day, so that later starts don't wait for it.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheDirectory, root, say } from './toolchain.mjs';

const packageDirectory = join(root, 'node_modules/electron');
const memory = join(cacheDirectory, 'electron.json');
/** A download that brings no byte for this long is given up. */
const STALL_MS = 20_000;
const RETRY_AFTER_MS = 24 * 3600 * 1000;

/** Electron's executable, or the reason why it cannot be had. */
export async function findElectron(node) {
  const unfit = whyNotHere();
  if (unfit) return { reason: unfit };
  const present = executable();
  if (present) return { path: present };
  const failed = remembered();
  if (failed) return { reason: failed };
  say("Fetching Electron's binary (once) …");
  const reason = await install(node);
  const path = executable();
  if (path) return { path };
  const why = reason ?? 'its installer left no executable';
  mkdirSync(cacheDirectory, { recursive: true });
  writeFileSync(memory, JSON.stringify({ version: version(), at: Date.now(), reason: why }));
  return { reason: why };
}

/** What keeps a window from opening on this machine whatever is installed. */
function whyNotHere() {
  if (process.platform !== 'linux') return undefined;
  if (!process.env.DISPLAY && !process.env.WAYLAND_DISPLAY) return 'there is no display';
  if (process.getuid?.() === 0) return "Chromium's sandbox does not work for root";
  return undefined;
}

function version() {
  return JSON.parse(readFileSync(join(packageDirectory, 'package.json'), 'utf8')).version;
}

function executable() {
  const pathFile = join(packageDirectory, 'path.txt');
  if (!existsSync(pathFile)) return undefined;
  const path = join(packageDirectory, 'dist', readFileSync(pathFile, 'utf8'));
  return existsSync(path) ? path : undefined;
}

function remembered() {
  if (!existsSync(memory)) return undefined;
  const { version: failedVersion, at, reason } = JSON.parse(readFileSync(memory, 'utf8'));
  return failedVersion === version() && Date.now() - at < RETRY_AFTER_MS
    ? `${reason} (tried earlier)`
    : undefined;
}

/** Runs Electron's installer; undefined when it succeeded, else why it did not. */
function install(node) {
  const scratch = join(cacheDirectory, 'electron-download');
  rmSync(scratch, { recursive: true, force: true });
  mkdirSync(scratch, { recursive: true });
  return new Promise((resolve) => {
    const child = spawn(node, [join(packageDirectory, 'install.js')], {
      env: { ...process.env, TMPDIR: scratch, TEMP: scratch, TMP: scratch },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let errors = '';
    child.stderr.setEncoding('utf8').on('data', (text) => {
      errors = (errors + text).slice(-4000);
    });
    let bytes = 0;
    let lastGrowth = Date.now();
    const watch = setInterval(() => {
      // Unpacking writes elsewhere, so growth of either place counts.
      const now = directorySize(scratch) + directorySize(join(packageDirectory, 'dist'));
      if (now !== bytes) {
        bytes = now;
        lastGrowth = Date.now();
        if (process.stderr.isTTY) process.stderr.write(`\r  ${Math.round(bytes / 1e6)} MB`);
      } else if (Date.now() - lastGrowth > STALL_MS) {
        child.kill();
        errors = 'Error: nothing was received for 20 s';
      }
    }, 500);
    child.on('error', (error) => finish(error.message));
    child.on('exit', (code) => finish(code === 0 ? undefined : firstError(errors)));
    function finish(reason) {
      clearInterval(watch);
      if (bytes > 0 && process.stderr.isTTY) process.stderr.write('\n');
      rmSync(scratch, { recursive: true, force: true });
      resolve(reason);
    }
  });
}

function firstError(text) {
  const line = text.split('\n').find((candidate) => /error/i.test(candidate)) ?? text.split('\n')[0] ?? '';
  return (
    line
      .replace(/^.*?Error: /, '')
      .trim()
      .slice(0, 160) || 'its installer failed'
  );
}

function directorySize(directory) {
  if (!existsSync(directory)) return 0;
  let size = 0;
  for (const name of readdirSync(directory)) {
    try {
      const stat = statSync(join(directory, name));
      size += stat.isDirectory() ? directorySize(join(directory, name)) : stat.size;
    } catch (error) {
      // The installer removes files while we count.
      if (error.code !== 'ENOENT') throw error;
    }
  }
  return size;
}
