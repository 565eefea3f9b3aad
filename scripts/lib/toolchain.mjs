// What every script needs first: the packages installed and a Node new enough. Plain JavaScript that runs on any
// Node from 20, because this is what runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));
export const cacheDirectory = join(root, '.cache');

/** The oldest Node that runs the sources as they are (type stripping without a flag). */
const NODE_NEEDED = [22, 18];

/** Progress and complaints go to stderr: stdout belongs to what the script is for. */
export function say(line) {
  process.stderr.write(`${line}\n`);
}

/** Ends the script with one line that says why. */
export function fail(line, code = 1) {
  say(line);
  process.exit(code);
}

function newEnough(version) {
  const [major = 0, minor = 0] = version.replace(/^v/, '').split('.').map(Number);
  return major > NODE_NEEDED[0] || (major === NODE_NEEDED[0] && minor >= NODE_NEEDED[1]);
}

/** The Node the project brings along for this platform, where it exists. */
function broughtNode() {
  const system = process.platform === 'win32' ? 'win' : process.platform;
  const directory = join(root, 'node_modules', `node-${system}-${process.arch}`, 'bin');
  return join(directory, process.platform === 'win32' ? 'node.exe' : 'node');
}

/** Path of a Node that can run the sources; ends the script with an explanation when there is none. */
export function findNode() {
  const brought = broughtNode();
  if (existsSync(brought)) return brought;
  if (newEnough(process.versions.node)) return process.execPath;
  return fail(
    `Switchyard needs Node ${NODE_NEEDED.join('.')} or later and brings one for Linux and Windows only; ` +
      `this is Node ${process.versions.node} on ${process.platform} ${process.arch}. Please install a newer Node.`,
  );
}

/** What of the lock file is not in node_modules, as package names; platform-dependent packages don't count. */
function missingPackages() {
  const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
  let installed;
  try {
    installed = JSON.parse(readFileSync(join(root, 'node_modules/.package-lock.json'), 'utf8'));
  } catch {
    installed = { packages: {} };
  }
  return Object.entries(lock.packages)
    .filter(([path, { version, optional, devOptional }]) => {
      if (path === '' || optional || devOptional) return false;
      return installed.packages[path]?.version !== version;
    })
    .map(([path]) => path.replace(/^.*node_modules\//, ''));
}

/** Installs what package-lock.json names and node_modules lacks. */
export function ensureInstalled() {
  const missing = missingPackages();
  if (missing.length === 0) return;
  const fresh = !existsSync(join(root, 'node_modules'));
  say(`Installing ${missing.length} packages through npm (the first time takes a minute or two) …`);
  const npm = npmCommand();
  const started = Date.now();
  const { status, error } = spawnSync(
    npm.command,
    [...npm.args, fresh ? 'ci' : 'install', '--no-audit', '--no-fund', '--loglevel=error'],
    { cwd: root, stdio: ['ignore', 2, 2], shell: npm.shell },
  );
  if (error) fail(`npm could not be started: ${error.message}`);
  if (status !== 0) fail(`npm failed (exit code ${status}); what it said stands above.`);
  say(`Installed in ${Math.round((Date.now() - started) / 1000)} s.`);
}

function npmCommand() {
  const script = process.env.npm_execpath;
  if (script?.endsWith('.js')) return { command: process.execPath, args: [script], shell: false };
  // Without npm's own hint it is on the path; Windows starts npm.cmd through its shell only.
  return { command: 'npm', args: [], shell: process.platform === 'win32' };
}

/** Newest modification time below the given files and directories, ms since 1970; 0 when there is nothing. */
export function newestChange(paths) {
  let newest = 0;
  for (const path of paths) {
    const full = join(root, path);
    if (!existsSync(full)) continue;
    const stat = statSync(full);
    newest = Math.max(newest, stat.mtimeMs);
    if (stat.isDirectory())
      newest = Math.max(newest, newestChange(readdirSync(full).map((name) => join(path, name))));
  }
  return newest;
}

/**
 * Runs a program in the foreground: stdio is ours, signals are passed on, and this process ends the way the
 * program did (its exit code, or 128 + signal number as shells have it).
 */
export function runInForeground(command, args, options = {}) {
  const child = spawn(command, args, {
    cwd: options.cwd ?? process.cwd(),
    env: options.env ?? process.env,
    stdio: 'inherit',
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    // A terminal's Ctrl-C reaches the child by itself (same process group); only other signals need passing on.
    process.on(signal, () => {
      if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal);
    });
  }
  return new Promise((resolve) => {
    child.on('error', (error) => fail(`${command} could not be started: ${error.message}`));
    child.on('exit', (code, signal) => {
      resolve(code ?? 128 + (SIGNAL_NUMBERS[signal] ?? 0));
    });
  });
}

const SIGNAL_NUMBERS = { SIGHUP: 1, SIGINT: 2, SIGQUIT: 3, SIGABRT: 6, SIGKILL: 9, SIGSEGV: 11, SIGTERM: 15 };
