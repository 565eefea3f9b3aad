interface Entry {
  text: string;
  /** More may come: what follows waits for it. */
  open: boolean;
}

/** A place in the queue for input that is still on its way. */
export interface InputPlace {
  /** Puts text at this place; behind everything else once the place is closed. */
  add: (text: string) => void;
  /** Lets what follows go. */
  close: () => void;
}

/** What goes to the guest, in the order in which the user made it, however late a part of it comes. */
export class InputQueue {
  readonly #pieceChars: number;
  readonly #send: (text: string) => Promise<unknown>;
  readonly #failed: (error: unknown) => void;
  readonly #entries: Entry[] = [];
  #draining = false;

  /**
   * @param pieceChars the most that is sent at once, in UTF-16 units; each piece goes after the one before was taken.
   * @param failed told when `send` rejects; what was being sent is dropped then.
   */
  constructor(
    pieceChars: number,
    send: (text: string) => Promise<unknown>,
    failed: (error: unknown) => void,
  ) {
    this.#pieceChars = pieceChars;
    this.#send = send;
    this.#failed = failed;
  }

  add(text: string): void {
    this.#entries.push({ text, open: false });
    void this.#drain();
  }

  /** Keeps a place for input that comes later; nothing behind it is sent until it is closed. */
  reserve(): InputPlace {
    const entry: Entry = { text: '', open: true };
    this.#entries.push(entry);
    return {
      add: (text) => {
        if (entry.open) entry.text += text;
        else this.add(text);
      },
      close: () => {
        entry.open = false;
        void this.#drain();
      },
    };
  }

  /** What can go now. */
  #take(): string {
    const open = this.#entries.findIndex((entry) => entry.open);
    const ready = this.#entries.splice(0, open < 0 ? this.#entries.length : open);
    return ready.map(({ text }) => text).join('');
  }

  /** Sends what can go; never rejects. */
  async #drain(): Promise<void> {
    if (this.#draining) return;
    this.#draining = true;
    for (let text = this.#take(); text !== ''; text = this.#take()) {
      try {
        for (let at = 0; at < text.length; at += this.#pieceChars)
          await this.#send(text.slice(at, at + this.#pieceChars));
      } catch (error) {
        this.#failed(error);
      }
    }
    this.#draining = false;
  }
}
