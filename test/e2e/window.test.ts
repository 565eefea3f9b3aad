import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { aptMissing } from '../../src-main/firstguest/apt.ts';
import { accessibilityFaults } from './support/accessibility.ts';
import { openBrowser, withoutChromium, type Browser } from './support/browser.ts';
import { startDemoHost, type DemoHost } from './support/demo-host.ts';
import { Window } from './support/window.ts';

/** The window over the real host, with guests that are played (demo-vm-process.ts): everything but the machine. */
describe.skipIf(withoutChromium('the window, in Chromium'))('window', () => {
  let demo: DemoHost;
  let browser: Browser;
  let window: Window;

  beforeAll(async () => {
    demo = await startDemoHost();
    browser = await openBrowser(demo.address);
    window = new Window(browser.page);
  });
  afterAll(async () => {
    await browser.close();
    await demo.stop();
  });

  const file = (name: string): string => join(demo.files, name);

  test('offers the first guest where there is none', async () => {
    await browser.page.getByRole('heading', { name: 'No virtual machines yet' }).waitFor();
    expect(
      await browser.page.getByRole('heading', { name: "Linux (from this computer's packages)" }).count(),
    ).toBe(1);
    expect(await accessibilityFaults(browser.page)).toEqual([]);
  });

  test('shows how far the first guest is, and leaves off when told to', async (context) => {
    const missing = await aptMissing();
    if (missing !== undefined) return context.skip(missing);
    const { page } = browser;
    await window.button('Make this guest').click();
    await page.getByRole('progressbar', { name: 'Making the Linux guest' }).waitFor();
    await window.button('Cancel').click();
    await window.button('Make this guest').waitFor();
    expect(await page.getByRole('region', { name: 'Notifications' }).textContent()).toBe('');
  });

  describe('create dialog', () => {
    const error = (label: string): Promise<string | null> => {
      const field = window
        .dialog()
        .locator('.field', { has: browser.page.getByLabel(label, { exact: true }) });
      return field.locator('.note').textContent();
    };
    const fill = (label: string, text: string): Promise<void> =>
      window.dialog().getByLabel(label, { exact: true }).fill(text);

    beforeAll(async () => {
      await window.button('New').click();
    });
    afterAll(async () => {
      await window.button('Cancel', window.dialog()).click();
    });

    test('says that a kernel is needed, and goes to the field', async () => {
      await window.button('Create', window.dialog()).click();
      await expect.poll(() => error('Kernel')).toContain('A kernel is needed.');
      const focused = browser.page.locator(':focus');
      await expect.poll(() => focused.getAttribute('aria-invalid')).toBe('true');
    });

    test.each([
      ['0', 'At least'],
      ['10 TiB', 'At most'],
      ['12.5', 'whole number'],
      ['much', 'Write a number'],
      ['-5', 'Write a number'],
      ['', 'Write a number'],
    ])('refuses %j as memory', async (text, message) => {
      await fill('Memory', text);
      await expect.poll(() => error('Memory')).toContain(message);
    });

    test('takes memory with a unit', async () => {
      await fill('Memory', '1.5 GiB');
      await expect.poll(() => error('Memory')).toContain('taken from the host only');
    });

    test('refuses files that are not there, not files, or no kernels', async () => {
      await fill('Kernel', '/nowhere/vmlinuz');
      await expect.poll(() => error('Kernel')).toContain('does not exist');
      await fill('Kernel', 'vmlinuz');
      await expect.poll(() => error('Kernel')).toContain('must be absolute');
      await fill('Kernel', demo.files);
      await expect.poll(() => error('Kernel')).toContain('is a directory');
      await fill('Kernel', file('notes.txt'));
      await expect.poll(() => error('Kernel')).toMatch(/not|no /i);
      expect(await error('Kernel')).not.toContain('Linux bzImage or Multiboot image.');
    });

    test('refuses an initrd that is larger than the memory', async () => {
      await fill('Kernel', file('vmlinuz'));
      await fill('Initrd', file('large.gz'));
      await fill('Memory', '64 MiB');
      await expect.poll(() => error('Initrd')).toMatch(/100(\.0)? MiB/);
      expect(await accessibilityFaults(browser.page)).toEqual([]);
    });

    test('picks a file from the host, by keyboard', async () => {
      await window.button('Browse for the initrd').click();
      const browse = window.dialog();
      const names = browse.getByRole('list', { name: 'Files' }).getByRole('button');
      await expect.poll(() => names.count()).toBe(4);
      await browser.page.keyboard.press('ArrowDown');
      await browser.page.keyboard.press('ArrowDown');
      expect(await browser.page.locator(':focus').textContent()).toContain('notes.txt');
      await browser.page.keyboard.press('Enter');
      await expect
        .poll(() => window.dialog().getByLabel('Initrd', { exact: true }).inputValue())
        .toBe(file('notes.txt'));
    });
  });

  test('creates, starts, and shows what the guest prints', async () => {
    await window.create({ name: 'alpha', memory: '128', kernel: file('vmlinuz') });
    await window.untilState('Off');
    await window.button('Start').click();
    await window.untilState('Running');
    await window.untilConsole('~ #');
    await window.type('uname -a\n');
    await window.untilConsole('i686 GNU/Linux');
  });

  test('shows exits by reason, details under them, and holds on request', async () => {
    const { page } = browser;
    await expect.poll(() => page.getByTestId('exits-per-second').textContent()).toMatch(/\d/);
    await page.getByRole('tab', { name: 'Exits' }).click();
    const table = page.getByRole('table', { name: 'Exits by reason' });
    const portIo = table.getByRole('row', { name: /^Port I\/O/ });
    const count = async (): Promise<number> =>
      Number((await portIo.getByRole('cell').nth(2).textContent())?.replaceAll(',', ''));
    const first = await count();
    await expect.poll(count).toBeGreaterThan(first);
    await window.button('Hold').click();
    const held = await count();
    await page.waitForTimeout(1200);
    expect(await count()).toBe(held);
    await window.button('Go on').click();
    await expect.poll(count).toBeGreaterThan(held);

    await portIo.getByRole('button').click();
    await page.getByRole('row', { name: /0x3f8 COM1/ }).waitFor();
    await page.getByRole('searchbox', { name: 'Filter' }).fill('0x3f8');
    await expect.poll(() => table.locator('tr[data-reason]').count()).toBe(1);
    await page.getByRole('searchbox', { name: 'Filter' }).fill('');
    const before = await count();
    await window.button('Reset baseline').click();
    await expect.poll(count).toBeLessThan(before);
    await table.getByRole('columnheader', { name: 'Reason' }).getByRole('button').click();
    expect(await table.getByRole('columnheader', { name: 'Reason' }).getAttribute('aria-sort')).toBe(
      'ascending',
    );
    expect(await table.locator('tr[data-reason]').first().textContent()).toContain('Control register');
    expect(await accessibilityFaults(page)).toEqual([]);
    const download = page.waitForEvent('download');
    await window.button('CSV').click();
    expect((await download).suggestedFilename()).toMatch(/\.csv$/);
    await page.getByRole('tab', { name: 'Console' }).click();
  });

  test('pauses and resumes', async () => {
    await window.button('Pause').click();
    await window.untilState('Paused');
    await window.button('Resume').click();
    await window.untilState('Running');
  });

  test('says why there is no hardware engine', async () => {
    const hardware = browser.page.getByRole('radio', { name: 'Hardware' });
    expect(await hardware.getAttribute('aria-disabled')).toBe('true');
    await hardware.hover();
    await browser.page.getByText('is not available here').waitFor();
    await browser.page.mouse.move(10, 400);
  });

  test('searches, copies and pastes in the console', async () => {
    const { page } = browser;
    await window.type('echo needle\n');
    await page.keyboard.press('Control+Shift+F');
    await page.getByRole('textbox', { name: 'Search the console' }).fill('needle');
    await page.getByText('1 of 2').waitFor();
    await page.keyboard.press('Control+Shift+F');
    await page.keyboard.press('Escape');
    await expect.poll(() => page.getByRole('search').count()).toBe(0);

    await page.evaluate(() => navigator.clipboard.writeText('echo pasted-text'));
    await window.button('Paste').click();
    await page.keyboard.press('Enter');
    await window.untilConsole(/\npasted-text/);
  });

  test('keeps up with a flood of output', async () => {
    await window.type('flood\n');
    await window.untilConsole(/flood line 19999\n~ #/, 30_000);
    await window.type('echo after the flood\n');
    await window.untilConsole(/\nafter the flood\n/);
  });

  test('shows the console again after a reload', async () => {
    await browser.page.reload();
    await browser.page.getByRole('heading', { level: 1, name: 'alpha' }).waitFor();
    await window.untilConsole('after the flood');
  });

  test('saves a snapshot, returns to it, renames and deletes it', async () => {
    const { page } = browser;
    await window.button('Take snapshot').click();
    await window.dialog().getByLabel('Name', { exact: true }).fill('clean');
    await window.button('Take snapshot', window.dialog()).click();
    const tab = page.getByRole('tab', { name: /^Snapshots/ });
    await expect.poll(() => tab.textContent()).toContain('1');
    await window.untilState('Running');
    await window.type('echo secret > file\n');
    await window.type('cat file\n');
    await window.untilConsole(/cat file\nsecret/);

    await tab.click();
    expect(await accessibilityFaults(page)).toEqual([]);
    await window.button('Return to clean').click();
    await window.button('Return', window.dialog()).click();
    await window.untilState('Running');
    await page.getByRole('tab', { name: 'Console' }).click();
    await window.type('cat file\n');
    await window.untilConsole("cat: can't open 'file'");

    await tab.click();
    await window.button('Rename clean').click();
    await window.dialog().getByLabel('Name', { exact: true }).fill('spotless');
    await window.button('Rename', window.dialog()).click();
    await window.button('Delete spotless').click();
    await window.button('Delete', window.dialog()).click();
    await expect.poll(() => window.button('Delete spotless').count()).toBe(0);
    await page.getByRole('tab', { name: 'Console' }).click();
  });

  test('tells of a crash, offers a restart, and leaves the other machine running', async () => {
    await window.create({ name: 'beta', kernel: file('vmlinuz') });
    await window.button('Start').click();
    await window.untilState('Running');
    await window.untilConsole('~ #');
    await window.type('crash\n');
    await window.untilState('Crashed');
    const alert = browser.page.getByRole('alert').filter({ hasText: 'The virtual machine crashed' });
    expect(await alert.textContent()).toContain('the interrupt window was open');
    expect(await accessibilityFaults(browser.page)).toEqual([]);
    expect(await window.row('alpha').textContent()).toContain('Running');
    await window.button('Restart', alert).click();
    await window.untilState('Running');
    await expect.poll(() => alert.count()).toBe(0);
  });

  test('tells why a start failed', async () => {
    await window.create({ name: 'gamma', kernel: file('vmlinuz'), commandLine: 'unbootable' });
    await window.button('Start').click();
    const alert = browser.page.getByRole('alert').filter({ hasText: 'could not start' });
    expect(await alert.textContent()).toContain('The kernel is damaged.');
    await window.button('Edit', alert).click();
    await window.dialog().getByLabel('Command line', { exact: true }).fill('console=ttyS0');
    await window.button('Save', window.dialog()).click();
    await expect.poll(() => window.dialog().count()).toBe(0);
  });

  test('everything by keyboard: list, rename, tabs, dialogs, regions', async () => {
    const { page } = browser;
    await page.keyboard.press('F6');
    const focused = page.locator(':focus');
    for (let press = 0; press < 4 && (await focused.getAttribute('data-vm')) === null; press++)
      await page.keyboard.press('F6');
    await page.keyboard.press('Home');
    await page.getByRole('heading', { level: 1, name: 'alpha' }).waitFor();
    await page.keyboard.press('ArrowDown');
    await page.getByRole('heading', { level: 1, name: 'beta' }).waitFor();
    await page.keyboard.press('End');
    await page.getByRole('heading', { level: 1, name: 'gamma' }).waitFor();
    await page.keyboard.press('F2');
    await page.getByRole('heading', { name: 'Rename “gamma”' }).waitFor();
    await page.keyboard.type('delta');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { level: 1, name: 'delta' }).waitFor();
    expect(await focused.getAttribute('data-vm')).not.toBeNull();
    await page.keyboard.press('?');
    await page.getByRole('heading', { name: 'Keyboard shortcuts' }).waitFor();
    await page.keyboard.press('Escape');
    await page.keyboard.press('Shift+F10');
    await page.getByRole('menu').waitFor();
    expect(await accessibilityFaults(page)).toEqual([]);
    await page.keyboard.type('cl');
    expect(await focused.textContent()).toContain('Clone');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Clone “delta”' }).waitFor();
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { level: 1, name: 'delta (copy)' }).waitFor();
    await page.keyboard.press('Alt+X');
    expect(await page.getByRole('tab', { name: 'Exits' }).getAttribute('aria-selected')).toBe('true');
    await page.getByRole('tab', { name: 'Exits' }).focus();
    await page.keyboard.press('End');
    expect(await page.getByRole('tab', { name: 'Details' }).getAttribute('aria-selected')).toBe('true');
    expect(await accessibilityFaults(page)).toEqual([]);
    await page.keyboard.press('Home');
    // Out of the console, which keeps every other key for the guest.
    await page.locator('.xterm-helper-textarea').focus();
    await page.keyboard.press('F6');
    expect(await focused.evaluate((element) => element.closest('.xterm'))).toBeNull();
  });

  test('says what deleting deletes', async () => {
    const { page } = browser;
    await window.row('delta (copy)').focus();
    await page.keyboard.press('Delete');
    await expect.poll(() => window.dialog().textContent()).toContain(file('vmlinuz'));
    expect(await window.dialog().textContent()).toContain('These files stay where they are');
    await window.button('Delete', window.dialog()).click();
    await expect.poll(() => window.row('delta (copy)').count()).toBe(0);
    await window.row('alpha').focus();
    await page.keyboard.press('Delete');
    await window.dialog().getByText('The machine is on.').waitFor();
    expect(await window.button('Delete', window.dialog()).isDisabled()).toBe(true);
    await window.button('Cancel', window.dialog()).click();
  });

  test('remembers the theme', async () => {
    const { page } = browser;
    const theme = (): Promise<string | undefined> =>
      page.evaluate(() => document.documentElement.dataset['theme']);
    await window.button('Theme: as the system').click();
    expect(await theme()).toBe('light');
    // The colours of buttons change over in a moment.
    await page.waitForTimeout(300);
    expect(await accessibilityFaults(page)).toEqual([]);
    await page.waitForTimeout(600);
    await page.reload();
    await window.button('Theme: light').waitFor();
    expect(await theme()).toBe('light');
  });

  test('powers off when asked, and by force', async () => {
    await window.row('alpha').click();
    await window.untilState('Running');
    await window.button('Power off').click();
    await window.untilState('Off');
    await window.row('beta').click();
    await window.button('Force off').click();
    await window.button('Force off', window.dialog()).click();
    await window.untilState('Off');
  });

  test('tells when the host is gone, and the browser saw no errors before that', async () => {
    expect(browser.errors).toEqual([]);
    expect(demo.faults).toEqual([]);
    demo.server.close();
    await browser.page.getByText('What you see is how things stood').waitFor();
    expect(await window.button('Reconnect now').count()).toBe(1);
  });
});
