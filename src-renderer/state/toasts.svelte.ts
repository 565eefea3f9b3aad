import { ApiError } from '../../src-core/protocol/messages.ts';

export interface Toast {
  id: number;
  level: 'info' | 'warning' | 'error';
  /** What happened. */
  title: string;
  /** Why, and where. */
  message: string;
  /** What to do about it. */
  hint: string | undefined;
}

/** Errors stay until dismissed; other notices go by themselves after this time. */
const INFO_LIFETIME_MS = 6000;
const TOASTS_MAX = 5;

export class Toasts {
  #list = $state<Toast[]>([]);
  #nextId = 1;

  get list(): readonly Toast[] {
    return this.#list;
  }

  add(level: Toast['level'], title: string, message = '', hint?: string): void {
    const last = this.#list.at(-1);
    // The same thing said twice in a row is said once.
    if (last && last.level === level && last.title === title && last.message === message) return;
    const id = this.#nextId++;
    this.#list = [...this.#list, { id, level, title, message, hint }].slice(-TOASTS_MAX);
    if (level === 'info') setTimeout(() => this.dismiss(id), INFO_LIFETIME_MS);
  }

  /** Reports an error thrown by a command. A cancelled one is what the user wanted: nothing is said. */
  error(title: string, thrown: unknown): void {
    const error = ApiError.from(thrown);
    if (error.code === 'cancelled') return;
    const fields = error.fields?.map(({ field, message }) => `${field}: ${message}`).join('; ');
    this.add('error', title, fields ? `${error.message} (${fields})` : error.message, error.hint);
  }

  dismiss(id: number): void {
    this.#list = this.#list.filter((toast) => toast.id !== id);
  }
}
