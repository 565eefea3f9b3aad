import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium, type BrowserContext, type Page } from 'playwright-core';

const CANDIDATES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

/** The system's Chromium; undefined where there is none. */
export const CHROMIUM = CANDIDATES.find((path) => existsSync(path));

/** For `describe.skipIf`: says by name what is skipped. */
export function withoutChromium(name: string): boolean {
  if (CHROMIUM) return false;
  process.stderr.write(`SKIPPED: ${name}: no Chromium (looked for ${CANDIDATES.join(', ')})\n`);
  return true;
}

export interface Browser {
  context: BrowserContext;
  page: Page;
  /** What the page wrote to its console as errors, refusals of the content security policy among them. */
  errors: string[];
  close: () => Promise<void>;
}

export async function openBrowser(address: string, colorScheme: 'light' | 'dark' = 'dark'): Promise<Browser> {
  if (!CHROMIUM) throw new Error('there is no Chromium');
  const profile = mkdtempSync(join(tmpdir(), 'switchyard-chromium-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    headless: true,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
    viewport: { width: 1280, height: 800 },
    colorScheme,
    permissions: ['clipboard-read', 'clipboard-write'],
  });
  const page = context.pages()[0] ?? (await context.newPage());
  page.setDefaultTimeout(15_000);
  const errors: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error') errors.push(message.text());
  });
  page.on('pageerror', (error) => errors.push(String(error.stack ?? error)));
  await page.goto(address);
  const close = async (): Promise<void> => {
    await context.close();
    // Its last processes may still be writing.
    rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  };
  return { context, page, errors, close };
}
