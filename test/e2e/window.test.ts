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

  async function idOf(name: string): Promise<string> {
    const vm = (await demo.api.call('listVms', {})).find(({ config }) => config.name === name);
    if (!vm) throw new Error(`there is no machine ${name}`);
    return vm.id;
  }

  /** Shows the console of a machine that runs, so that a test depends on none before it. */
  async function openRunning(name: string): Promise<void> {
    await demo.run(name);
    await window.show(name);
    await window.untilState('Running');
  }

  test('offers the first guest where there is none', async () => {
    await browser.page.getByRole('heading', { name: 'No virtual machines yet' }).waitFor();
    await browser.page.getByRole('heading', { name: "Linux (from this computer's packages)" }).waitFor();
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
      await window.leaveDialogs();
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
      await expect.poll(() => error('Kernel')).toContain('is a text file');
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
      await expect.poll(() => window.focused().textContent()).toContain('notes.txt');
      await browser.page.keyboard.press('Enter');
      await expect
        .poll(() => window.dialog().getByLabel('Initrd', { exact: true }).inputValue())
        .toBe(file('notes.txt'));
    });

    test('goes one dialog back with each Escape', async () => {
      const { page } = browser;
      await window.button('Browse for the initrd').click();
      await expect.poll(() => page.locator('dialog[open]').count()).toBe(2);
      await page.keyboard.press('Escape');
      await expect.poll(() => page.locator('dialog[open]').count()).toBe(1);
      await expect.poll(() => window.focused().getAttribute('aria-label')).toBe('Browse for the initrd');
      await window.button('Browse for the initrd').click();
      await expect.poll(() => page.locator('dialog[open]').count()).toBe(2);
      // At once, with no other input between: what the second one closes, the page cannot keep open.
      await page.keyboard.press('Escape');
      await page.keyboard.press('Escape');
      await window.untilNoDialog();
      // The window knows that it is gone: its keys work.
      await page.keyboard.press('Alt+N');
      await page.getByRole('heading', { name: 'New virtual machine', exact: true }).waitFor();
    });
  });

  test('creates, starts, and shows what the guest prints', async () => {
    await window.create({ name: 'alpha', memory: '128', kernel: file('vmlinuz') });
    await window.untilState('Off');
    await window.button('Start').click();
    await window.untilState('Running');
    await window.untilConsole('~ #');
    await window.command('uname -a');
    await window.untilConsole('i686 GNU/Linux');
  });

  test('shows what was translated, and a region in full', async () => {
    const { page } = browser;
    await openRunning('alpha');
    await window.tab('Translations').click();
    const table = page.getByRole('table', { name: 'Hot regions' });
    await table.getByRole('row', { name: /^0xc722e500.*32-bit, CPL 0.*361,520/ }).waitFor();
    await table.getByRole('button', { name: '0xc722e500' }).press('Enter');
    const code = (name: string) => page.getByRole('region', { name });
    await expect.poll(() => code('Guest code of node 0').textContent()).toContain('jne short 0xc722e500');
    expect(await code('IR of node 0').textContent()).toContain('rax = addf.32i rax, 3');
    expect(await code('WebAssembly of node 0').textContent()).toContain('i32.add');
    expect(await accessibilityFaults(page)).toEqual([]);
    await window.button('Refresh').click();
    await window.tab('Console').click();
  });

  test('shows exits by reason, details under them, and holds on request', async () => {
    const { page } = browser;
    await openRunning('alpha');
    await expect.poll(() => page.getByTestId('exits-per-second').textContent()).toMatch(/\d/);
    await window.tab('Exits').click();
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
    await expect
      .poll(() => table.getByRole('columnheader', { name: 'Reason' }).getAttribute('aria-sort'))
      .toBe('ascending');
    await expect
      .poll(() => table.locator('tr[data-reason]').first().textContent())
      .toContain('Control register');
    expect(await accessibilityFaults(page)).toEqual([]);
    const download = page.waitForEvent('download');
    await window.button('CSV').click();
    expect((await download).suggestedFilename()).toMatch(/\.csv$/);
  });

  test('pauses and resumes', async () => {
    await openRunning('alpha');
    await window.button('Pause').click();
    await window.untilState('Paused');
    await window.button('Resume').click();
    await window.untilState('Running');
  });

  test('searches the console', async () => {
    const { page } = browser;
    await openRunning('alpha');
    await window.command('echo needle');
    await window.untilConsole(/^needle$/m);
    await page.keyboard.press('Control+Shift+F');
    await page.getByRole('textbox', { name: 'Search the console' }).fill('needle');
    await page.getByText('1 of 2').waitFor();
    // What is not there yet is found when it comes.
    await page.getByRole('textbox', { name: 'Search the console' }).fill('haystack');
    await page.getByText('Not found').waitFor();
    await window.command('echo haystack');
    // Which of the two is selected depends on whether they came at once.
    await page.getByText(/^[12] of 2$/).waitFor();
    await page.getByRole('textbox', { name: 'Search the console' }).focus();
    await page.keyboard.press('Escape');
    await expect.poll(() => page.getByRole('search').count()).toBe(0);
  });

  test('copies from the console and pastes into it', async () => {
    const { page } = browser;
    await openRunning('alpha');
    await window.command('echo copied-text');
    await window.untilConsole(/^copied-text$/m);
    await page.keyboard.press('Control+Shift+F');
    await page.getByRole('textbox', { name: 'Search the console' }).fill('copied-text');
    await page.getByText('1 of 2').waitFor();
    await window.button('Copy').click();
    await expect.poll(() => page.evaluate(() => navigator.clipboard.readText())).toBe('copied-text');
    await page.getByRole('textbox', { name: 'Search the console' }).focus();
    await page.keyboard.press('Escape');

    await page.evaluate(() => navigator.clipboard.writeText('echo pasted-text'));
    await window.button('Paste').click();
    await page.keyboard.press('Enter');
    await window.untilConsole(/^pasted-text$/m);
  });

  test('puts what is typed behind what is still being pasted', async () => {
    const { page } = browser;
    await openRunning('alpha');
    await page.evaluate(() => {
      navigator.clipboard.readText = () =>
        new Promise((resolve) => setTimeout(() => resolve('echo slowly'), 500));
    });
    await window.button('Paste').click();
    await page.keyboard.type(' read\n');
    await window.untilConsole(/^slowly read$/m);
    // A browser that asks its user does not hold up the keys.
    await page.evaluate(() => {
      navigator.clipboard.readText = () => new Promise(() => undefined);
    });
    await window.button('Paste').click();
    await page.keyboard.type('echo went on\n');
    await window.untilConsole(/^went on$/m);
    await page.evaluate(() => Reflect.deleteProperty(navigator.clipboard, 'readText'));
  });

  test('keeps up with a flood of output', async () => {
    await openRunning('alpha');
    await window.command('flood');
    await window.untilConsole(/flood line 19999\n~ #/, 60_000);
    await window.command('echo after the flood');
    await window.untilConsole(/^after the flood$/m);
  });

  test('shows the console again after a reload', async () => {
    await openRunning('alpha');
    await window.command('echo before the reload');
    await window.untilConsole(/^before the reload$/m);
    // The window remembers the selected machine when the host has been told of it.
    await expect
      .poll(async () => JSON.stringify(await demo.api.call('getSettings', {})))
      .toContain(await idOf('alpha'));
    await browser.page.reload();
    await window.title('alpha').waitFor();
    await window.untilConsole(/^before the reload$/m);
  });

  test('saves a snapshot, returns to it, renames and deletes it', async () => {
    const { page } = browser;
    await openRunning('alpha');
    await window.takeSnapshot('clean');
    await window.command('echo secret > file');
    await window.command('cat file');
    await window.untilConsole(/cat file\nsecret/);

    await window.tab('Snapshots').click();
    await window.button('Return to clean').waitFor();
    expect(await accessibilityFaults(page)).toEqual([]);
    await window.returnTo('clean');
    await window.command('cat file');
    await window.untilConsole("cat: can't open 'file'");

    await window.tab('Snapshots').click();
    await window.button('Rename clean').click();
    await window.dialog().getByLabel('Name', { exact: true }).fill('spotless');
    await window.button('Rename', window.dialog()).click();
    await window.button('Delete spotless').click();
    await window.button('Delete', window.dialog()).click();
    await expect.poll(() => window.button('Delete spotless').count()).toBe(0);
    await window.untilNoDialog();
  });

  test('tells of a crash, offers a restart, and leaves the other machine running', async () => {
    await demo.run('alpha');
    await window.leaveDialogs();
    await window.create({ name: 'beta', kernel: file('vmlinuz') });
    await window.button('Start').click();
    await window.untilState('Running');
    await window.untilConsole('~ #');
    await window.command('crash');
    await window.untilState('Crashed');
    const alert = browser.page.getByRole('alert').filter({ hasText: 'The virtual machine crashed' });
    await expect.poll(() => alert.textContent()).toContain('the interrupt window was open');
    expect(await accessibilityFaults(browser.page)).toEqual([]);
    await expect.poll(() => window.row('alpha').textContent()).toContain('Running');
    await window.button('Restart', alert).click();
    await window.untilState('Running');
    await expect.poll(() => alert.count()).toBe(0);
  });

  test('tells why a start failed', async () => {
    await window.leaveDialogs();
    await window.create({ name: 'gamma', kernel: file('vmlinuz'), commandLine: 'unbootable' });
    await window.button('Start').click();
    const alert = browser.page.getByRole('alert').filter({ hasText: 'could not start' });
    await expect.poll(() => alert.textContent()).toContain('The kernel is damaged.');
    await window.button('Edit', alert).click();
    await window.dialog().getByLabel('Command line', { exact: true }).fill('console=ttyS0');
    await window.button('Save', window.dialog()).click();
    await window.untilNoDialog();
  });

  test('everything by keyboard: list, rename, tabs, dialogs, regions', async () => {
    const { page } = browser;
    for (const name of ['alpha', 'beta', 'gamma']) await demo.run(name);
    await openRunning('beta');
    await page.keyboard.press('F6');
    const focused = window.focused();
    for (let press = 0; press < 4 && (await focused.getAttribute('data-vm')) === null; press++)
      await page.keyboard.press('F6');
    await page.keyboard.press('Home');
    await window.title('alpha').waitFor();
    await page.keyboard.press('ArrowDown');
    await window.title('beta').waitFor();
    await page.keyboard.press('End');
    await window.title('gamma').waitFor();
    await page.keyboard.press('F2');
    await page.getByRole('heading', { name: 'Rename “gamma”' }).waitFor();
    await page.keyboard.type('delta');
    await page.keyboard.press('Enter');
    await window.title('delta').waitFor();
    await expect.poll(() => focused.getAttribute('data-vm')).toBe(await idOf('delta'));
    await page.keyboard.press('?');
    await page.getByRole('heading', { name: 'Keyboard shortcuts' }).waitFor();
    await page.keyboard.press('Escape');
    await expect.poll(() => focused.getAttribute('data-vm')).toBe(await idOf('delta'));
    await page.keyboard.press('Shift+F10');
    await page.getByRole('menu').waitFor();
    expect(await accessibilityFaults(page)).toEqual([]);
    await page.keyboard.type('cl');
    await expect.poll(() => focused.textContent()).toContain('Clone');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Clone “delta”' }).waitFor();
    await page.keyboard.press('Enter');
    await window.title('delta (copy)').waitFor();
    await window.untilNoDialog();
    await expect.poll(() => focused.getAttribute('data-vm')).toBe(await idOf('delta'));
    const selected = page.getByRole('tab', { selected: true });
    await page.keyboard.press('Alt+X');
    await expect.poll(() => selected.textContent()).toContain('Exits');
    await window.tab('Exits').focus();
    await page.keyboard.press('End');
    await expect.poll(() => selected.textContent()).toContain('Details');
    expect(await accessibilityFaults(page)).toEqual([]);
    await page.keyboard.press('Home');
    await expect.poll(() => selected.textContent()).toContain('Console');
    // Out of the console, which keeps every other key for the guest.
    await window.focusConsole();
    await page.keyboard.press('F6');
    await expect.poll(() => focused.evaluate((element) => element.closest('.xterm') === null)).toBe(true);
  });

  test('keeps the focus on a row that moves in the list', async () => {
    const { page } = browser;
    for (const name of ['alpha', 'mover', 'never']) await demo.run(name);
    await openRunning('mover');
    const id = await idOf('mover');
    const rows = (): Promise<string[]> => page.locator('button.row .name').allTextContents();
    for (const [from, to] of [
      ['mover', 'zulu'],
      ['zulu', 'mover'],
    ] as const) {
      await window.row(from).focus();
      await page.keyboard.press('F2');
      await page.getByRole('heading', { name: `Rename “${from}”` }).waitFor();
      await page.keyboard.type(to);
      await page.keyboard.press('Enter');
      await expect.poll(rows).toContain(to);
      await window.untilNoDialog();
      await expect.poll(() => window.focused().getAttribute('data-vm')).toBe(id);
    }
    // Renamed by someone else, the dialog being long gone.
    const [before] = (await demo.api.call('listVms', {})).filter((vm) => vm.id === id);
    if (!before) throw new Error('the machine is gone');
    await demo.api.call('updateVm', { vmId: id, config: { ...before.config, name: 'zulu' } });
    await expect.poll(async () => (await rows()).at(-1)).toBe('zulu');
    await expect.poll(() => window.focused().getAttribute('data-vm')).toBe(id);
    for (const name of ['zulu', 'never']) {
      const vmId = await idOf(name);
      await demo.api.call('forceOff', { vmId });
      await demo.api.call('deleteVm', { vmId });
      await expect.poll(rows).not.toContain(name);
    }
    // On to a row that is still there.
    await expect.poll(() => window.focused().getAttribute('aria-current')).toBe('true');
  });

  test('says what deleting deletes', async () => {
    const { page } = browser;
    await demo.run('alpha');
    await demo.run('doomed');
    await demo.api.call('forceOff', { vmId: await idOf('doomed') });
    await window.show('doomed');
    await window.untilState('Off');
    await window.row('doomed').focus();
    await page.keyboard.press('Delete');
    await expect.poll(() => window.dialog().textContent()).toContain(file('vmlinuz'));
    await window.dialog().getByText('These files stay where they are').waitFor();
    await window.button('Delete', window.dialog()).click();
    await expect.poll(() => window.row('doomed').count()).toBe(0);
    await window.untilNoDialog();
    await expect.poll(() => window.focused().getAttribute('aria-current')).toBe('true');
    await window.row('alpha').focus();
    await page.keyboard.press('Delete');
    await window.dialog().getByText('The machine is on.').waitFor();
    await expect.poll(() => window.button('Delete', window.dialog()).isDisabled()).toBe(true);
    await window.button('Cancel', window.dialog()).click();
    await window.untilNoDialog();
  });

  test('remembers the theme', async () => {
    const { page } = browser;
    await openRunning('alpha');
    await expect.poll(() => window.row('alpha').textContent()).toContain('/s');
    const theme = (): Promise<string | undefined> =>
      page.evaluate(() => document.documentElement.dataset['theme']);
    await window.button('Theme: as the system').click();
    await expect.poll(theme).toBe('light');
    expect(await accessibilityFaults(page)).toEqual([]);
    await expect
      .poll(async () => JSON.stringify(await demo.api.call('getSettings', {})))
      .toContain('"theme":"light"');
    await page.reload();
    await window.button('Theme: light').waitFor();
    await expect.poll(theme).toBe('light');
  });

  test('powers off when asked, and by force', async () => {
    await openRunning('alpha');
    await window.button('Power off').click();
    await window.untilState('Off');
    await openRunning('beta');
    await window.button('Force off').click();
    await window.button('Force off', window.dialog()).click();
    await window.untilState('Off');
  });

  test('tells when the host is gone, and the browser saw no errors before that', async () => {
    expect(browser.errors).toEqual([]);
    expect(demo.faults).toEqual([]);
    demo.server.close();
    await browser.page.getByText('What you see is how things stood').waitFor();
    await window.button('Reconnect now').waitFor();
  });
});
