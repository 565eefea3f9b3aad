import type { Locator, Page } from 'playwright-core';

const LIMIT_MS = 15_000;

/** What a test does to the window, by the roles and names a user of a screen reader would go by. */
export class Window {
  readonly page: Page;

  constructor(page: Page) {
    this.page = page;
  }

  button(name: string | RegExp, within: Locator | Page = this.page): Locator {
    return within.getByRole('button', { name, exact: typeof name === 'string' });
  }

  dialog(): Locator {
    return this.page.locator('dialog[open]').last();
  }

  row(name: string): Locator {
    const label = this.page.getByText(name, { exact: true });
    return this.page.getByRole('navigation').locator('button.row').filter({ has: label });
  }

  /** The name of the machine that is on show. */
  title(name: string): Locator {
    return this.page.getByRole('heading', { level: 1, name, exact: true });
  }

  /** The element with the focus. */
  focused(): Locator {
    return this.page.locator(':focus');
  }

  /** Waits until the last dialog is gone, and with it what it kept from the rest of the window. */
  async untilNoDialog(): Promise<void> {
    await until(async () => String(await this.page.locator('dialog[open]').count()), '0', LIMIT_MS);
  }

  /** Leaves all dialogs that are open. */
  async leaveDialogs(): Promise<void> {
    for (let left = 5; left > 0 && (await this.page.locator('dialog[open]').count()) > 0; left--)
      await this.page.keyboard.press('Escape');
    await this.untilNoDialog();
  }

  /** Shows a machine's console, whatever was on show before. */
  async show(name: string): Promise<void> {
    await this.leaveDialogs();
    await this.row(name).click();
    await this.title(name).waitFor();
    await this.tab('Console').click();
  }

  state(): Locator {
    return this.page.getByTestId('vm-state');
  }

  /** Fills and saves the create dialog. */
  async create(fields: {
    name: string;
    memory?: string;
    kernel: string;
    initrd?: string;
    commandLine?: string;
  }): Promise<void> {
    await this.button('New').click();
    const dialog = this.dialog();
    await dialog.getByLabel('Name', { exact: true }).fill(fields.name);
    if (fields.memory !== undefined) await dialog.getByLabel('Memory', { exact: true }).fill(fields.memory);
    await dialog.getByLabel('Kernel', { exact: true }).fill(fields.kernel);
    if (fields.initrd !== undefined) await dialog.getByLabel('Initrd', { exact: true }).fill(fields.initrd);
    if (fields.commandLine !== undefined)
      await dialog.getByLabel('Command line', { exact: true }).fill(fields.commandLine);
    await this.button('Create', dialog).click();
    await this.title(fields.name).waitFor();
    await this.untilNoDialog();
  }

  /** The rows of the terminal that are on the screen, as a screen reader reads them. */
  async consoleText(): Promise<string> {
    const rows = this.page.locator('.xterm-accessibility-tree > div');
    return (await rows.allTextContents()).map((row) => row.replaceAll('\u00a0', ' ').trimEnd()).join('\n');
  }

  async untilConsole(wanted: string | RegExp, limitMs = LIMIT_MS): Promise<void> {
    await until(() => this.consoleText(), wanted, limitMs);
  }

  async focusConsole(): Promise<void> {
    const terminal = this.page.locator('.xterm-helper-textarea');
    const focus = async (): Promise<string> => {
      await terminal.focus();
      return (await terminal.evaluate((element) => element === document.activeElement))
        ? 'focused'
        : 'elsewhere';
    };
    await until(focus, 'focused', LIMIT_MS);
  }

  async type(text: string): Promise<void> {
    await this.focusConsole();
    await this.page.keyboard.type(text);
  }

  /** Types a line for the guest's shell, in place of what may stand on the line already. */
  async command(line: string): Promise<void> {
    await this.focusConsole();
    await this.page.keyboard.press('Control+U');
    await this.page.keyboard.type(`${line}\n`);
  }

  tab(name: 'Console' | 'Exits' | 'Translations' | 'Snapshots' | 'Details'): Locator {
    return this.page.getByRole('tab', { name: new RegExp(`^${name}`) });
  }

  /** Takes a snapshot of the machine on show, and waits until it is there and the machine runs on. */
  async takeSnapshot(name: string, limitMs = LIMIT_MS): Promise<void> {
    const count = async (): Promise<string> =>
      /\d+/.exec((await this.tab('Snapshots').textContent()) ?? '')?.[0] ?? '0';
    const before = Number(await count());
    await this.button('Take snapshot').first().click();
    await this.dialog().getByLabel('Name', { exact: true }).fill(name);
    await this.button('Take snapshot', this.dialog()).click();
    await until(count, String(before + 1), limitMs);
    await this.untilState('Running', limitMs);
  }

  /** Returns the machine on show to a snapshot, and waits until it runs on from there. */
  async returnTo(snapshot: string, limitMs = LIMIT_MS): Promise<void> {
    await this.tab('Snapshots').click();
    await this.button(`Return to ${snapshot}`).click();
    await this.button('Return', this.dialog()).click();
    // The machine runs on until it has returned; then the window shows its console.
    const selected = async (): Promise<string> =>
      (await this.tab('Console').getAttribute('aria-selected')) ?? '';
    await until(selected, 'true', limitMs);
    await this.untilState('Running', limitMs);
  }

  async untilState(wanted: string, limitMs = LIMIT_MS): Promise<void> {
    await until(async () => (await this.state().textContent()) ?? '', wanted, limitMs);
  }
}

/** Waits until a text holds what is wanted; says what it held last when it does not come to. */
async function until(read: () => Promise<string>, wanted: string | RegExp, limitMs: number): Promise<void> {
  const deadline = Date.now() + limitMs;
  for (;;) {
    const text = await read();
    if (typeof wanted === 'string' ? text.includes(wanted) : wanted.test(text)) return;
    if (Date.now() > deadline) throw new Error(`no ${wanted} within ${limitMs} ms, but:\n${text}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
