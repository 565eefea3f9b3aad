import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test, type TestContext } from 'vitest';
import { aptMissing } from '../../src-main/firstguest/apt.ts';
import { buildInitramfs } from '../../src-main/firstguest/initramfs.ts';
import { fetchInstallerKernel } from '../../src-main/firstguest/packages.ts';
import { startApp, type RunningApp } from './support/app.ts';
import { openBrowser, withoutChromium, type Browser } from './support/browser.ts';
import { Window } from './support/window.ts';

/** A real Linux in the real app, as a user meets it: `npm start -- --no-open` and a browser. */

const cache = fileURLToPath(new URL('../../.cache/guests', import.meta.url));
/** A boot takes half a minute alone; the machine's cores may be shared. */
const BOOT_LIMIT_MS = 400_000;
const PROMPT = /switchyard:\S*[#$] ?$/m;

/** The guest's files, or why they cannot be had here. */
async function prepare(): Promise<{ kernel: string; initrd: string } | string> {
  const missing = await aptMissing();
  if (missing !== undefined) return missing;
  try {
    const { kernel, busybox } = await fetchInstallerKernel({
      cache,
      architecture: 'i386',
      signal: AbortSignal.timeout(400_000),
      onStep: () => undefined,
      onDownload: () => undefined,
    });
    mkdirSync(cache, { recursive: true });
    const initrd = join(cache, 'i386-shell.gz');
    writeFileSync(initrd, buildInitramfs({ busybox }));
    return { kernel, initrd };
  } catch (error) {
    return `its packages cannot be had: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/**
 * A line of the kernel's log from its first three seconds. Its very first lines come in one burst, faster than the
 * screen can be read; these stay for a while, and are gone from the screen of a guest that has booted.
 */
const EARLY_BOOT = /^\[ +[0-2]\.\d{6}\] /m;

describe.skipIf(withoutChromium('Linux in the window, in Chromium'))('Linux in the window', () => {
  let guest: { kernel: string; initrd: string } | string;
  let app: RunningApp;
  let browser: Browser;
  let window: Window;

  beforeAll(async () => {
    guest = await prepare();
    app = await startApp();
    browser = await openBrowser(app.address);
    window = new Window(browser.page);
  });
  afterAll(async () => {
    await browser.close();
    await app.stop();
  });

  function files(context: TestContext): { kernel: string; initrd: string } {
    if (typeof guest === 'string') return context.skip(guest);
    return guest;
  }

  test(
    'boots to a shell that answers, the exits moving',
    { timeout: BOOT_LIMIT_MS + 60_000 },
    async (context) => {
      await window.create({ name: 'first', memory: '128 MiB', ...files(context) });
      await window.button('Start').click();
      await window.untilState('Running');
      const exits = (): Promise<string | null> => browser.page.getByTestId('exits-per-second').textContent();
      await expect.poll(exits, { timeout: 30_000 }).toMatch(/[1-9]/);
      const before = await exits();
      await expect.poll(exits, { timeout: 30_000 }).not.toBe(before);
      await window.untilConsole(PROMPT, BOOT_LIMIT_MS);
      await window.type('uname -a\n');
      await window.untilConsole(/^Linux switchyard 6\.1\.\S+ #1 SMP/m, 60_000);
    },
  );

  test('goes back to a snapshot: the file written since is gone', { timeout: 300_000 }, async (context) => {
    files(context);
    await window.takeSnapshot('before the file', 120_000);
    await window.type('echo written > /root/file; cat /root/file\n');
    await window.untilConsole(/^written$/m, 60_000);
    await window.returnTo('before the file', 120_000);
    await expect.poll(() => window.consoleText()).not.toContain('written');
    await window.type('cat /root/file\n');
    await window.untilConsole("cat: can't open '/root/file': No such file or directory", 60_000);
  });

  test(
    'a killed VM says so and offers a restart; the other runs on',
    { timeout: 480_000 },
    async (context) => {
      const { page } = browser;
      await window.create({ name: 'second', memory: '128 MiB', ...files(context) });
      await window.button('Start').click();
      await window.untilConsole(EARLY_BOOT, 120_000);

      const pid = app.vmProcesses().get('first');
      expect(pid, `the VM processes are ${JSON.stringify([...app.vmProcesses()])}`).toBeDefined();
      process.kill(pid ?? 0, 'SIGKILL');
      await expect.poll(() => window.row('first').textContent()).toContain('Crashed');
      await page.getByText('“first” crashed').waitFor();
      await window.row('first').click();
      const alert = page.getByRole('alert').filter({ hasText: 'The virtual machine crashed' });
      await expect.poll(() => alert.textContent()).toContain('SIGKILL');

      await window.row('second').click();
      await window.untilState('Running');
      await window.tab('Exits').click();
      const row = page
        .getByRole('table', { name: 'Exits by reason' })
        .getByRole('row', { name: /^Port I\/O/ });
      const count = async (): Promise<number> =>
        Number((await row.getByRole('cell').nth(2).textContent())?.replaceAll(',', ''));
      const then = await count();
      await expect.poll(count, { timeout: 30_000 }).toBeGreaterThan(then);

      await window.row('first').click();
      await window.button('Restart', alert).click();
      await window.untilState('Running', 60_000);
      await window.untilConsole(EARLY_BOOT, 120_000);
    },
  );

  test('the browser saw no errors', () => {
    expect(browser.errors).toEqual([]);
  });
});
