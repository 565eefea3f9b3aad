import { FitAddon } from '@xterm/addon-fit';
import { SearchAddon, type ISearchOptions } from '@xterm/addon-search';
import { Terminal } from '@xterm/xterm';
import type { EventData } from '../../src-core/protocol/api.ts';
import type { App } from '../state/app.svelte.ts';
import { InputQueue, type InputPlace } from './input.ts';
import { DARK, DARK_MATCHES, LIGHT, LIGHT_MATCHES } from './palette.ts';

export type SerialPort = 0 | 1;

/** Lines kept above the screen. */
const SCROLLBACK_LINES = 10_000;
/** Taken-in output is acknowledged in lots of this many characters, and at the latest after ACK_DELAY_MS. */
const ACK_LOT_CHARS = 16 * 1024;
const ACK_DELAY_MS = 50;
/** A paste goes to the host in pieces, each after the one before was taken. */
const PASTE_PIECE_CHARS = 64 * 1024;
/** How long keys wait for the clipboard. A browser that asks the user first takes as long as the user does. */
const CLIPBOARD_WAIT_MS = 1000;

export interface SessionCallbacks {
  onSize: (columns: number, rows: number) => void;
  onSelection: (selected: boolean) => void;
  onMatches: (index: number, count: number) => void;
  onSearchKey: () => void;
}

/**
 * One terminal on one serial port of one VM, over one connection to the host. The host replays what it kept, then
 * sends on; the terminal acknowledges what it has drawn, so that a flood waits in the host and not here.
 */
export class ConsoleSession {
  readonly terminal: Terminal;
  readonly #app: App;
  readonly #vmId: string;
  readonly #port: SerialPort;
  readonly #fit = new FitAddon();
  readonly #search = new SearchAddon();
  readonly #stopListening: () => void;
  readonly #input: InputQueue;
  /** Where the text goes that the terminal gives out while it pastes. */
  #pasteInto: InputPlace | null = null;
  #subscription: number | null = null;
  /** Events that overtook the answer that tells the subscription's number. */
  #early: EventData<'serial'>[] = [];
  #unacknowledged = 0;
  #ackTimer: ReturnType<typeof setTimeout> | undefined;
  #dark = true;
  #disposed = false;

  constructor(app: App, vmId: string, port: SerialPort, element: HTMLElement, callbacks: SessionCallbacks) {
    this.#app = app;
    this.#vmId = vmId;
    this.#port = port;
    this.#input = new InputQueue(
      PASTE_PIECE_CHARS,
      (text) => app.call('serialInput', { vmId, port, text }),
      (error) => app.toasts.error('Typing into the console failed', error),
    );
    const style = getComputedStyle(element);
    this.terminal = new Terminal({
      allowProposedApi: true, // the search's highlights are decorations
      scrollback: SCROLLBACK_LINES,
      fontFamily: style.getPropertyValue('--mono') || 'monospace',
      fontSize: app.settings.consoleFontSize,
      lineHeight: 1.15,
      cursorBlink: !matchMedia('(prefers-reduced-motion: reduce)').matches,
      cursorInactiveStyle: 'outline',
      // The text is also kept as a live region that screen readers follow.
      screenReaderMode: true,
      minimumContrastRatio: 4.5,
      macOptionIsMeta: true,
    });
    this.terminal.loadAddon(this.#fit);
    this.terminal.loadAddon(this.#search);
    this.terminal.open(element);
    this.terminal.attachCustomKeyEventHandler((event) => this.#key(event, callbacks));
    this.terminal.onData((text) => this.#type(text));
    this.terminal.onBinary((text) => this.#type(text));
    this.terminal.onSelectionChange(() => callbacks.onSelection(this.terminal.hasSelection()));
    this.terminal.onResize(({ cols, rows }) => {
      callbacks.onSize(cols, rows);
      this.#tellSize();
    });
    this.#search.onDidChangeResults(({ resultIndex, resultCount }) =>
      callbacks.onMatches(resultIndex, resultCount),
    );
    this.#stopListening = app.on('serial', (event) => this.#receive(event));
    void app.attempt('Attaching the console failed', this.#subscribe());
  }

  async #subscribe(): Promise<void> {
    const { subscription } = await this.#app.call('serialSubscribe', { vmId: this.#vmId, port: this.#port });
    this.#subscription = subscription;
    if (this.#disposed) {
      await this.#unsubscribe();
      return;
    }
    const early = this.#early;
    this.#early = [];
    for (const event of early) this.#receive(event);
    this.fit();
    this.#tellSize();
  }

  #receive(event: EventData<'serial'>): void {
    if (this.#subscription === null) {
      this.#early.push(event);
      return;
    }
    if (event.subscription !== this.#subscription) return;
    const drawn = (): void => this.#acknowledge(event.text.length);
    if (event.kind === 'data') {
      this.terminal.write(event.text, drawn);
      return;
    }
    // The kept screen was laid out for its own size: draw it at that size, then fit (xterm reflows).
    this.terminal.write('\x1bc', () => {
      if (this.#disposed) return;
      if (event.columns !== undefined && event.rows !== undefined)
        this.terminal.resize(event.columns, event.rows);
    });
    this.terminal.write(event.text, () => {
      drawn();
      this.fit();
    });
  }

  #acknowledge(length: number): void {
    if (this.#disposed || this.#subscription === null) return;
    this.#unacknowledged += length;
    if (this.#unacknowledged >= ACK_LOT_CHARS) this.#sendAck();
    else this.#ackTimer ??= setTimeout(() => this.#sendAck(), ACK_DELAY_MS);
  }

  #sendAck(): void {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    const length = this.#unacknowledged;
    this.#unacknowledged = 0;
    if (this.#disposed || this.#subscription === null || length === 0) return;
    if (this.#app.connection !== 'open') return;
    const sent = this.#app.call('serialAck', { subscription: this.#subscription, length });
    void this.#app.attempt('The console fell out of step', sent);
  }

  #type(text: string): void {
    if (this.#app.vms.get(this.#vmId)?.state === 'running') (this.#pasteInto ?? this.#input).add(text);
  }

  /** False keeps the key from the terminal. */
  #key(event: KeyboardEvent, callbacks: SessionCallbacks): boolean {
    if (event.key === 'F6') return false; // moves between the regions of the window
    if (!event.ctrlKey || !event.shiftKey || event.altKey || event.metaKey) return true;
    if (event.code === 'KeyV') return false; // the browser pastes
    if (event.code !== 'KeyF' && event.code !== 'KeyC') return true;
    event.preventDefault();
    if (event.type !== 'keydown') return false;
    if (event.code === 'KeyF') callbacks.onSearchKey();
    else void this.#app.attempt('Copying failed', this.copy());
    return false;
  }

  async copy(): Promise<void> {
    if (this.terminal.hasSelection()) await navigator.clipboard.writeText(this.terminal.getSelection());
  }

  /** Pastes the clipboard. The next key is the terminal's already, and comes after what is pasted. */
  async paste(): Promise<void> {
    this.terminal.focus();
    const place = this.#input.reserve();
    const timer = setTimeout(place.close, CLIPBOARD_WAIT_MS);
    try {
      const text = await navigator.clipboard.readText();
      if (this.#disposed) return;
      this.#pasteInto = place;
      this.terminal.paste(text);
    } finally {
      this.#pasteInto = null;
      clearTimeout(timer);
      place.close();
    }
  }

  /** Takes the element's size; nothing while it is hidden. */
  fit(): void {
    if (this.#disposed || !this.terminal.element || this.terminal.element.clientWidth === 0) return;
    this.#fit.fit();
  }

  #tellSize(): void {
    if (this.#subscription === null || this.#disposed || this.#app.connection !== 'open') return;
    const { cols: columns, rows } = this.terminal;
    const sent = this.#app.call('serialResize', { vmId: this.#vmId, port: this.#port, columns, rows });
    void this.#app.attempt('Resizing the console failed', sent);
  }

  setTheme(dark: boolean): void {
    this.#dark = dark;
    this.terminal.options.theme = dark ? DARK : LIGHT;
  }

  setFontSize(pixels: number): void {
    this.terminal.options.fontSize = pixels;
    this.fit();
  }

  setInput(enabled: boolean): void {
    this.terminal.options.disableStdin = !enabled;
  }

  /** Selects the next or previous match; `onMatches` tells how many there are, now and as output comes. */
  find(term: string, direction: 'next' | 'previous', options: ISearchOptions): void {
    const all = { ...options, decorations: this.#dark ? DARK_MATCHES : LIGHT_MATCHES };
    if (direction === 'next') this.#search.findNext(term, all);
    else this.#search.findPrevious(term, all);
  }

  endSearch(): void {
    this.#search.clearDecorations();
    this.terminal.clearSelection();
  }

  async #unsubscribe(): Promise<void> {
    const subscription = this.#subscription;
    this.#subscription = null;
    // Without a connection there is nothing to end: the host forgot the subscription with it.
    if (subscription === null || this.#app.connection !== 'open') return;
    await this.#app.attempt(
      'Detaching the console failed',
      this.#app.call('serialUnsubscribe', { subscription }),
    );
  }

  dispose(): void {
    this.#disposed = true;
    clearTimeout(this.#ackTimer);
    this.#stopListening();
    void this.#unsubscribe();
    this.terminal.dispose();
  }
}
