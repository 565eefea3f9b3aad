import {
  commands,
  events,
  type ApiEvent,
  type Command,
  type CommandParams,
  type CommandResult,
  type EventData,
} from './api.ts';
import { ApiError, eventMessageSchema, responseSchema, type RequestMessage } from './messages.ts';

/** A two-way pipe of messages: a MessagePort, a WebSocket, or two ends in one process. */
export interface Transport {
  send(message: unknown): void;
  /** Set by the client. Gets each message as a plain object (parsed, where the pipe carries text). */
  onMessage: (message: unknown) => void;
  /** Set by the client. Called once when the pipe is gone. */
  onClose: () => void;
}

interface Call {
  method: Command;
  resolve: (result: unknown) => void;
  reject: (error: ApiError) => void;
}

type Listener = (data: unknown) => void;

/**
 * The caller's side of the API. Every answer and event is checked against its schema. When the pipe closes,
 * calls under way fail with `disconnected` and `onClose` is told.
 */
export class ApiClient {
  readonly #transport: Transport;
  readonly #calls = new Map<number, Call>();
  readonly #listeners = new Map<ApiEvent, Set<Listener>>();
  #nextId = 1;
  #closed = false;
  /** Called once when the host is gone. */
  onClose: () => void = () => undefined;
  /** Called for messages that are not of the protocol: a fault in Switchyard. */
  onProtocolError: (error: Error) => void = (error) => {
    throw error;
  };

  constructor(transport: Transport) {
    this.#transport = transport;
    transport.onMessage = (message) => this.#receive(message);
    transport.onClose = () => this.#close();
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Calls a command; rejects with an ApiError. */
  call<C extends Command>(method: C, params: CommandParams<C>): Promise<CommandResult<C>> {
    return new Promise<CommandResult<C>>((resolve, reject) => {
      if (this.#closed) {
        reject(disconnected());
        return;
      }
      const id = this.#nextId++;
      this.#calls.set(id, { method, resolve: resolve as (result: unknown) => void, reject });
      this.#transport.send({ id, method, params } satisfies RequestMessage);
    });
  }

  /** Listens to an event; the returned function stops listening. */
  on<E extends ApiEvent>(event: E, listener: (data: EventData<E>) => void): () => void {
    let listeners = this.#listeners.get(event);
    if (!listeners) this.#listeners.set(event, (listeners = new Set()));
    const entry = listener as Listener;
    listeners.add(entry);
    return () => {
      listeners.delete(entry);
    };
  }

  #receive(message: unknown): void {
    const event = eventMessageSchema.safeParse(message);
    if (event.success) {
      this.#receiveEvent(event.data.event, event.data.data);
      return;
    }
    const response = responseSchema.safeParse(message);
    if (!response.success) {
      this.onProtocolError(new Error('the host sent a message that is neither an answer nor an event'));
      return;
    }
    const call = this.#calls.get(response.data.id);
    if (!call) {
      this.onProtocolError(new Error(`the host answered call ${response.data.id}, which is not under way`));
      return;
    }
    this.#calls.delete(response.data.id);
    if ('error' in response.data) {
      call.reject(new ApiError(response.data.error));
      return;
    }
    const result = commands[call.method].result.safeParse(response.data.result);
    if (result.success) call.resolve(result.data);
    else
      call.reject(
        new ApiError(
          { code: 'internal', message: `the answer to ${call.method} is malformed` },
          { cause: result.error },
        ),
      );
  }

  #receiveEvent(name: string, data: unknown): void {
    if (!Object.hasOwn(events, name)) {
      this.onProtocolError(new Error(`the host sent an unknown event "${name}"`));
      return;
    }
    const event = name as ApiEvent;
    const listeners = this.#listeners.get(event);
    if (!listeners || listeners.size === 0) return;
    const parsed = events[event].safeParse(data);
    if (!parsed.success) {
      this.onProtocolError(new Error(`the event "${name}" is malformed`, { cause: parsed.error }));
      return;
    }
    for (const listener of [...listeners]) listener(parsed.data);
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    for (const call of calls) call.reject(disconnected());
    this.onClose();
  }
}

function disconnected(): ApiError {
  return new ApiError({ code: 'disconnected', message: 'The connection to the host is gone.' });
}
