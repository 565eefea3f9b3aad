import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Locator } from 'playwright-core';
import { DEFAULT_VM_CONFIG, type VmConfig } from '../../src-core/protocol/vm.ts';
import { partialProbe, unableProbe } from '../support/fake-engines.ts';
import { echo, halt, print, tinyGuest } from '../support/tiny-guest.ts';
import { accessibilityFaults } from './support/accessibility.ts';
import { startApp, type RunningApp } from './support/app.ts';
import { openBrowser, withoutChromium, type Browser } from './support/browser.ts';
import { startDemoHost, type DemoHost } from './support/demo-host.ts';
import { Window } from './support/window.ts';

/** The engine switch: on hosts made up, whatever this one is, and with a machine and its engines as they are here. */

/** The played guest does something every half second. */
const A_TICK_MS = 700;

const skipped = withoutChromium('the engine switch, in Chromium');

function radio({ page }: Browser, name: string): Locator {
  return page.getByRole('radiogroup', { name: 'Engine' }).getByRole('radio', { name, exact: true });
}

describe.skipIf(skipped)('on a host whose hardware works in part', () => {
  let demo: DemoHost;
  let browser: Browser;
  let window: Window;

  beforeAll(async () => {
    demo = await startDemoHost(undefined, partialProbe('ring3Syscall'));
    browser = await openBrowser(demo.address);
    window = new Window(browser.page);
  });
  afterAll(async () => {
    expect(browser.errors).toEqual([]);
    expect(demo.faults).toEqual([]);
    await browser.close();
    await demo.stop();
  });

  async function start(changes: Partial<VmConfig> & { name: string }): Promise<void> {
    const config = { ...DEFAULT_VM_CONFIG, kernel: join(demo.files, 'vmlinuz'), ...changes };
    const { id } = await demo.api.call('createVm', { config });
    await demo.api.call('start', { vmId: id });
    await window.show(changes.name);
    await window.untilState('Running');
  }

  test('a running guest is switched, and back by keyboard', async () => {
    const { page } = browser;
    await start({ name: 'swift' });
    await expect.poll(() => radio(browser, 'Software').getAttribute('aria-checked')).toBe('true');
    await page.waitForTimeout(A_TICK_MS);
    await radio(browser, 'Hardware').click();
    await page.getByText('“swift” runs on hardware (KVM)').waitFor();
    await page.getByText('The guest stood still for 412 µs.').waitFor();
    await expect.poll(() => radio(browser, 'Hardware').getAttribute('aria-checked')).toBe('true');
    expect(await window.row('swift').textContent()).toContain('Hardware');
    await page.waitForTimeout(A_TICK_MS);
    expect(await accessibilityFaults(page)).toEqual([]);

    await radio(browser, 'Hardware').focus();
    await page.keyboard.press('ArrowLeft');
    await page.keyboard.press('Enter');
    await page.getByText('“swift” runs on software').waitFor();
    await expect.poll(() => radio(browser, 'Software').getAttribute('aria-checked')).toBe('true');

    await radio(browser, 'Model').click();
    await page.getByText('“swift” runs on hardware (modelled)').waitFor();
    expect(await window.row('swift').textContent()).toContain('Model');
    await window.tab('Details').click();
    await page.getByText('From software to hardware (modelled); the guest stood still for 412 µs').waitFor();
    await page.getByText('What this host').click();
    await page.getByText('fails: Ring 3 and back by SYSCALL is not there').waitFor();
    expect(await accessibilityFaults(page)).toEqual([]);
  });

  test('what it did on each engine stands side by side', async () => {
    const { page } = browser;
    await window.show('swift');
    await window.tab('Exits').click();
    await window.button('Engines side by side').click();
    const table = page.getByRole('table', { name: 'Exits by engine' });
    const heads = async (): Promise<string> => (await table.locator('thead').textContent()) ?? '';
    for (const engine of ['Software', 'Hardware', 'Model']) await expect.poll(heads).toContain(engine);
    expect(await heads()).toContain('time is modelled');
    const row = table.getByRole('row', { name: /^Port I\/O/ });
    expect(await row.getByRole('cell').count()).toBe(9);
    expect(await accessibilityFaults(page)).toEqual([]);
    await page.getByText('What KVM itself counted').click();
    await page.getByText('halt_exits').waitFor();
    expect(await page.getByText('mmu_shadow_zapped').count()).toBe(0);
    expect(await accessibilityFaults(page)).toEqual([]);
    const download = page.waitForEvent('download');
    await window.button('CSV').click();
    expect((await download).suggestedFilename()).toBe('swift-engines.csv');
    await window.button('Live').click();
    await page.getByRole('table', { name: 'Exits by reason' }).waitFor();
  });

  test('a guest that the hardware can’t run stays, and the reason is told', async () => {
    const { page } = browser;
    await start({ name: 'picky', commandLine: 'unfit' });
    await radio(browser, 'Hardware').click();
    const alert = page.getByRole('alert').filter({ hasText: '“picky” does not change its engine' });
    await expect.poll(() => alert.textContent()).toContain('fails at what the guest uses: Ring 3');
    await expect.poll(() => radio(browser, 'Software').getAttribute('aria-checked')).toBe('true');
    await window.tab('Details').click();
    await page.getByText('To hardware (KVM): refused.').waitFor();
    await alert.getByRole('button', { name: 'Dismiss' }).click();
  });

  test('one that was to start on hardware and could not says so for as long as it runs', async () => {
    const { page } = browser;
    await start({ name: 'wishful', commandLine: 'unfit', engine: 'hardware' });
    await page.getByText('Hardware was asked for; the guest runs in software').waitFor();
    expect(await accessibilityFaults(page)).toEqual([]);
    await radio(browser, 'Model').click();
    await expect.poll(() => page.getByText('Hardware was asked for').count()).toBe(0);
  });
});

describe.skipIf(skipped)('on a host without hardware virtualization', () => {
  let demo: DemoHost;
  let browser: Browser;

  beforeAll(async () => {
    demo = await startDemoHost(undefined, unableProbe);
    browser = await openBrowser(demo.address);
  });
  afterAll(async () => {
    expect(browser.errors).toEqual([]);
    await browser.close();
    await demo.stop();
  });

  test('the switch is off there and says why, to the pointer and to screen readers', async () => {
    const { page } = browser;
    const window = new Window(page);
    await demo.run('plain');
    await window.show('plain');
    await window.untilState('Running');
    const hardware = radio(browser, 'Hardware');
    await expect.poll(() => hardware.getAttribute('aria-disabled')).toBe('true');
    const described = (await hardware.getAttribute('aria-describedby')) ?? '';
    expect(await page.locator(`[id="${described}"]`).textContent()).toContain('This host has no /dev/kvm.');
    await hardware.hover();
    await page.getByText('Hardware is not available here.').waitFor();
    // It can be pressed, as what is only described as off can; nothing comes of it.
    await hardware.press('Enter');
    await expect.poll(() => radio(browser, 'Software').getAttribute('aria-checked')).toBe('true');
    await page.mouse.move(10, 400);
    expect(await accessibilityFaults(page)).toEqual([]);
  });
});

describe.skipIf(skipped)('with a machine', () => {
  const files = mkdtempSync(join(tmpdir(), 'switchyard-files-'));
  let app: RunningApp;
  let browser: Browser;
  let window: Window;

  beforeAll(async () => {
    writeFileSync(join(files, 'guest'), tinyGuest(print('ready '), echo, halt));
    app = await startApp();
    browser = await openBrowser(app.address);
    window = new Window(browser.page);
    await window.create({ name: 'echo', memory: '16 MiB', kernel: join(files, 'guest') });
    await window.button('Start').click();
    await window.untilConsole('ready');
  });
  afterAll(async () => {
    expect(browser.errors).toEqual([]);
    await browser.close();
    await app.stop();
    rmSync(files, { recursive: true, force: true });
  });

  test('the guest goes on under the model and back', async () => {
    const { page } = browser;
    await radio(browser, 'Model').click();
    await page.getByText('“echo” runs on hardware (modelled)').waitFor();
    await page.getByText(/The guest stood still for [\d.]+ (µs|ms)\./).waitFor();
    await window.type('abc');
    await window.untilConsole('ready abc');
    await radio(browser, 'Software').click();
    await page.getByText('“echo” runs on software').waitFor();
    await window.type('def');
    await window.untilConsole('ready abcdef');
  });

  test('and on hardware, where there is some', async (context) => {
    const { page } = browser;
    const hardware = radio(browser, 'Hardware');
    await expect
      .poll(() => hardware.getAttribute('title').then((title) => title ?? hardware.textContent()))
      .not.toContain('being found out');
    if ((await hardware.getAttribute('aria-disabled')) === 'true') {
      await hardware.hover();
      const reason = await page.getByText('Hardware is not available here.').locator('..').textContent();
      process.stderr.write(`SKIPPED: a guest switched to hardware in the window: ${reason?.trim()}\n`);
      return context.skip(`no hardware here: ${reason?.trim()}`);
    }
    await hardware.click();
    await page.getByText('“echo” runs on hardware (KVM)').waitFor();
    await window.type('ghi');
    await window.untilConsole('ready abcdefghi');
    await radio(browser, 'Software').click();
    await expect.poll(() => radio(browser, 'Software').getAttribute('aria-checked')).toBe('true');
    await window.type('jkl');
    await window.untilConsole('ready abcdefghijkl');
  });
});
