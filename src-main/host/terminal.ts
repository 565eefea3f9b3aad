import { SerializeAddon } from '@xterm/addon-serialize';
import headless from '@xterm/headless';
import { SERIAL_WINDOW_CHARS } from '../../src-core/protocol/api.ts';

/** What a subscriber gets: the kept screen to start from, then what comes. */
export type SerialMessage =
  { kind: 'replay'; text: string; columns: number; rows: number } | { kind: 'data'; text: string };

interface Subscriber {
  send: (message: SerialMessage) => void;
  /** `waiting`: its replay is being made and `held` gathers what comes meanwhile. `behind`: it gets nothing until it catches up. */
  state: 'waiting' | 'live' | 'behind';
  held: string;
  unacknowledged: number;
  /** Characters it may be behind; a replay of a long scrollback counts extra. */
  limit: number;
  /** The replay under way; an older one that was overtaken is dropped. */
  replay: number;
}

const COLUMNS = 80;
const ROWS = 25;
/** Lines kept above the screen. */
const SCROLLBACK = 5000;

/**
 * One serial port's screen, kept by the host so that a window can come and go. Subscribers start with a replay of
 * the screen and scrollback. One that falls more than a window behind gets no more until it has caught up, and then
 * a replay: memory stays bounded and the guest never waits for a window.
 */
export class KeptTerminal {
  readonly #terminal = new headless.Terminal({
    cols: COLUMNS,
    rows: ROWS,
    scrollback: SCROLLBACK,
    allowProposedApi: true,
  });
  readonly #serializer = new SerializeAddon();
  readonly #subscribers = new Set<Subscriber>();
  #decoder = new TextDecoder();

  /** @param answer gets what the terminal answers to a guest's queries while no window is there to answer them. */
  constructor(answer: (text: string) => void) {
    this.#terminal.loadAddon(this.#serializer);
    this.#terminal.onData((text) => {
      if (this.#subscribers.size === 0) answer(text);
    });
  }

  /** Guest output. `taken` is called when the terminal has processed it. */
  write(bytes: Uint8Array, taken: () => void): void {
    const text = this.#decoder.decode(bytes, { stream: true });
    this.#terminal.write(text, taken);
    if (text !== '') for (const subscriber of this.#subscribers) this.#pass(subscriber, text);
  }

  /** A blank terminal for a new run. Subscribers stay and see it. */
  clear(): void {
    this.restore('');
  }

  /** Replaces the screen by one that `serialize` gave. */
  restore(text: string): void {
    this.#decoder = new TextDecoder();
    // RIS through the write queue: a direct reset would overtake output still waiting there.
    this.#terminal.write(`\x1bc${text}`);
    for (const subscriber of this.#subscribers) this.#replay(subscriber);
  }

  /** The screen and scrollback as terminal text, with everything written so far. */
  serialize(): Promise<string> {
    return new Promise((resolve) => this.#terminal.write('', () => resolve(this.#serializer.serialize())));
  }

  resize(columns: number, rows: number): void {
    this.#terminal.resize(columns, rows);
  }

  /** Adds a subscriber; `acknowledge` tells how many characters it has taken in. */
  subscribe(send: (message: SerialMessage) => void): { acknowledge(length: number): void; end(): void } {
    const subscriber: Subscriber = {
      send,
      state: 'waiting',
      held: '',
      unacknowledged: 0,
      limit: 0,
      replay: 0,
    };
    this.#subscribers.add(subscriber);
    this.#replay(subscriber);
    return {
      acknowledge: (length) => {
        subscriber.unacknowledged = Math.max(0, subscriber.unacknowledged - length);
        if (subscriber.unacknowledged > SERIAL_WINDOW_CHARS / 2) return;
        subscriber.limit = SERIAL_WINDOW_CHARS;
        if (subscriber.state === 'behind') this.#replay(subscriber);
      },
      end: () => {
        this.#subscribers.delete(subscriber);
      },
    };
  }

  dispose(): void {
    this.#subscribers.clear();
    this.#terminal.dispose();
  }

  #replay(subscriber: Subscriber): void {
    subscriber.state = 'waiting';
    subscriber.held = '';
    const replay = ++subscriber.replay;
    // The terminal parses in the background: what was written before this call is in the replay, what comes after is held.
    this.#terminal.write('', () => {
      if (!this.#subscribers.has(subscriber) || subscriber.replay !== replay) return;
      const text = this.#serializer.serialize();
      subscriber.unacknowledged += text.length;
      subscriber.limit = subscriber.unacknowledged + SERIAL_WINDOW_CHARS;
      subscriber.state = 'live';
      subscriber.send({ kind: 'replay', text, columns: this.#terminal.cols, rows: this.#terminal.rows });
      const { held } = subscriber;
      subscriber.held = '';
      if (held !== '') this.#pass(subscriber, held);
    });
  }

  #pass(subscriber: Subscriber, text: string): void {
    if (subscriber.state === 'behind') return;
    if (subscriber.state === 'waiting') {
      subscriber.held += text;
      return;
    }
    if (subscriber.unacknowledged > 0 && subscriber.unacknowledged + text.length > subscriber.limit) {
      subscriber.state = 'behind';
      return;
    }
    subscriber.unacknowledged += text.length;
    subscriber.send({ kind: 'data', text });
  }
}
