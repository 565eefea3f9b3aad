// `npm test`: everything, from nothing. Each part runs whether or not the ones before it passed; the last line
// sums over all of them.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { ensureBuilt } from './lib/build.mjs';
import { cacheDirectory, ensureInstalled, fail, findNode, root, say } from './lib/toolchain.mjs';

/** One check that passes or fails as a whole. */
const check = (name, script, args) => ({ name, script, args });
const PARTS = {
  lint: [
    check('ESLint', 'node_modules/eslint/bin/eslint.js', ['.']),
    check('Prettier', 'node_modules/prettier/bin/prettier.cjs', ['--check', '.', '--log-level', 'warn']),
  ],
  types: [
    check('TypeScript', 'node_modules/typescript/bin/tsc', ['--noEmit']),
    check('svelte-check', 'node_modules/svelte-check/bin/svelte-check', [
      '--tsconfig',
      'src-renderer/tsconfig.json',
      '--fail-on-warnings',
      '--output',
      'human',
    ]),
  ],
  unit: 'vitest',
  oracle: 'vitest',
  guests: 'vitest',
  e2e: 'vitest',
};

const names = process.argv.slice(2);
const unknown = names.find((name) => !(name in PARTS));
if (unknown !== undefined)
  fail(`There is no part "${unknown}"; the parts are ${Object.keys(PARTS).join(', ')}.`, 2);
const chosen = names.length > 0 ? names : Object.keys(PARTS);

ensureInstalled();
const node = findNode();
const env = {
  ...process.env,
  PATH: dirname(node) + delimiter + process.env.PATH,
  FORCE_COLOR: process.env.FORCE_COLOR,
};
if (env.FORCE_COLOR === undefined) delete env.FORCE_COLOR;

const total = { passed: 0, failed: 0, skipped: 0 };
const lines = [];
for (const name of chosen) {
  say(`\n== ${name}`);
  const started = Date.now();
  if (name === 'e2e') ensureBuilt(node);
  const part = PARTS[name];
  const sum = part === 'vitest' ? runVitest(name) : runChecks(part);
  for (const { name: test, reason } of sum.skipped) say(`skipped: ${test}${reason ? ` (${reason})` : ''}`);
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  lines.push(
    `${name}: ${sum.passed} passed, ${sum.failed} failed, ${sum.skipped.length} skipped (${seconds} s)`,
  );
  total.passed += sum.passed;
  total.failed += sum.failed;
  total.skipped += sum.skipped.length;
}
console.log(`\n${lines.join('\n')}`);
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed === 0 ? 0 : 1;

function runChecks(checks) {
  const sum = { passed: 0, failed: 0, skipped: [] };
  for (const { name, script, args } of checks) {
    const { status } = spawnSync(node, [join(root, script), ...args], { cwd: root, env, stdio: 'inherit' });
    say(`${name}: ${status === 0 ? 'passed' : 'FAILED'}`);
    if (status === 0) sum.passed++;
    else sum.failed++;
  }
  return sum;
}

function runVitest(project) {
  const file = join(cacheDirectory, `test-sum-${project}.json`);
  mkdirSync(cacheDirectory, { recursive: true });
  rmSync(file, { force: true });
  const { status } = spawnSync(
    node,
    [
      join(root, 'node_modules/vitest/vitest.mjs'),
      'run',
      '--project',
      project,
      '--passWithNoTests',
      '--reporter=default',
      `--reporter=${join(root, 'scripts/lib/test-reporter.mjs')}`,
    ],
    { cwd: root, env: { ...env, SWITCHYARD_TEST_SUM: file }, stdio: 'inherit' },
  );
  // No sum means that vitest itself broke down (or was killed): one failure, never a silent pass.
  if (!existsSync(file)) return { passed: 0, failed: status === 0 ? 0 : 1, skipped: [] };
  const sum = JSON.parse(readFileSync(file, 'utf8'));
  if (status !== 0 && sum.failed === 0) sum.failed = 1;
  return sum;
}
