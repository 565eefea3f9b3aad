/**
 * Takes the pictures of docs/screenshots: `node test/e2e/screenshots.ts [directory]`. A real Linux from the
 * distribution's packages runs in the real app, so it needs what the end-to-end tests need, and a few minutes.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Page } from 'playwright-core';
import { startApp } from './support/app.ts';
import { openBrowser } from './support/browser.ts';
import { Window } from './support/window.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const directory = process.argv[2] ?? join(root, 'docs/screenshots');
const BOOT_LIMIT_MS = 500_000;
const THEMES = ['dark', 'light'] as const;

async function picture(page: Page, name: string): Promise<void> {
  // Off whatever was clicked last, which would show that it is pointed at.
  await page.mouse.move(0, 0);
  for (const colorScheme of THEMES) {
    await page.emulateMedia({ colorScheme });
    // Colours change over in a moment.
    await page.waitForTimeout(400);
    await page.screenshot({ path: join(directory, `${name}-${colorScheme}.png`) });
  }
  process.stdout.write(`${name}\n`);
}

mkdirSync(directory, { recursive: true });
const app = await startApp(join(root, '.cache/first-guest'));
const browser = await openBrowser(app.address);
try {
  const { page } = browser;
  const window = new Window(page);
  await page.getByRole('heading', { name: 'No virtual machines yet' }).waitFor();
  await picture(page, 'welcome');
  await page.getByRole('radio', { name: '32-bit (i386)' }).check();
  await window.button('Make this guest').click();
  await page.getByRole('progressbar').waitFor();
  await window.button('Start').click({ timeout: 600_000 });
  await window.untilConsole(/switchyard:\S*#/, BOOT_LIMIT_MS);
  for (const command of ['uname -a', 'head -8 /proc/cpuinfo', 'ls /']) {
    await window.type(`${command}\n`);
    await page.waitForTimeout(2500);
  }
  await window.type('i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo loop $i\n');
  await page.waitForTimeout(12_000);
  await picture(page, 'console');
  for (const name of ['fresh', 'after the loop']) await window.takeSnapshot(name, 60_000);
  await window.returnTo('fresh', 60_000);
  await window.type('dd if=/dev/zero bs=1M count=16 | md5sum\n');
  await page.waitForTimeout(6000);
  await window.takeSnapshot('Snapshot 1', 60_000);
  await window.tab('Snapshots').click();
  await picture(page, 'snapshots');
  // The same on both, for the comparison.
  for (const name of ['Model', 'Software']) {
    await page.getByRole('radiogroup', { name: 'Engine' }).getByRole('radio', { name, exact: true }).click();
    await window.tab('Console').click();
    await window.type('for i in 1 2 3 4 5 6 7 8 9 10; do ls -l /bin | md5sum; done\n');
    await page.waitForTimeout(12_000);
  }
  await window.tab('Exits').click();
  await page.getByRole('button', { name: /^Port I\/O/ }).click();
  await page.waitForTimeout(2000);
  await picture(page, 'exits');
  await window.button('Engines side by side').click();
  await page.waitForTimeout(2000);
  await picture(page, 'engines');
} finally {
  await browser.close();
  await app.stop();
}
