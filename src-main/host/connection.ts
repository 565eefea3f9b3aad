import {
  commands,
  type ApiEvent,
  type Command,
  type CommandInput,
  type CommandResult,
  type EventData,
} from '../../src-core/protocol/api.ts';
import {
  ApiError,
  requestSchema,
  type EventMessage,
  type ResponseMessage,
} from '../../src-core/protocol/messages.ts';
import type { SerialMessage } from './terminal.ts';

/** Everything the API can do, as functions. The connection is there for commands that belong to one. */
export type Handlers = {
  [C in Command]: (
    input: CommandInput<C>,
    connection: Connection,
  ) => CommandResult<C> | Promise<CommandResult<C>>;
};

interface Subscription {
  acknowledge(length: number): void;
  end(): void;
}

/** One window's connection: checks its requests, runs them, and keeps its subscriptions. Nothing it sends can throw here. */
export class Connection {
  readonly #handlers: Handlers;
  readonly #send: (message: ResponseMessage | EventMessage) => void;
  readonly #onFault: (error: Error) => void;
  readonly #subscriptions = new Map<number, Subscription>();
  #nextSubscription = 1;
  #closed = false;

  /** @param onFault told of faults in Switchyard itself, which the window gets as `internal`. */
  constructor(
    handlers: Handlers,
    send: (message: ResponseMessage | EventMessage) => void,
    onFault: (error: Error) => void,
  ) {
    this.#handlers = handlers;
    this.#send = send;
    this.#onFault = onFault;
  }

  /** Takes one message from the window. Resolves when it has been answered. */
  async receive(message: unknown): Promise<void> {
    const request = requestSchema.safeParse(message);
    if (!request.success) {
      // Without an id there is nothing to answer to; the peer is no client of ours.
      this.#onFault(new Error('a window sent a message that is no request'));
      return;
    }
    const { id, method, params } = request.data;
    try {
      this.#answer({ id, result: await this.#run(method, params) });
    } catch (error) {
      const failure = ApiError.from(error);
      if (failure.code === 'internal') this.#onFault(failure);
      this.#answer({ id, error: failure.toData() });
    }
  }

  event<E extends ApiEvent>(event: E, data: EventData<E>): void {
    if (!this.#closed) this.#send({ event, data });
  }

  /** Starts a serial stream; `begin` gets where to send. @returns the subscription's number. */
  subscribe(begin: (send: (message: SerialMessage) => void) => Subscription): number {
    const subscription = this.#nextSubscription++;
    this.#subscriptions.set(
      subscription,
      begin((message) => this.event('serial', { subscription, ...message })),
    );
    return subscription;
  }

  /** @throws ApiError `notFound` */
  acknowledge(subscription: number, length: number): void {
    this.#subscription(subscription).acknowledge(length);
  }

  /** @throws ApiError `notFound` */
  unsubscribe(subscription: number): void {
    this.#subscription(subscription).end();
    this.#subscriptions.delete(subscription);
  }

  close(): void {
    this.#closed = true;
    for (const subscription of this.#subscriptions.values()) subscription.end();
    this.#subscriptions.clear();
  }

  #subscription(id: number): Subscription {
    const subscription = this.#subscriptions.get(id);
    if (!subscription) throw new ApiError({ code: 'notFound', message: 'There is no such subscription.' });
    return subscription;
  }

  async #run(method: string, params: unknown): Promise<unknown> {
    if (!Object.hasOwn(commands, method)) {
      throw new ApiError({ code: 'badRequest', message: `There is no command "${method}".` });
    }
    const command = method as Command;
    const parsed = commands[command].params.safeParse(params);
    if (!parsed.success) {
      const fields = parsed.error.issues.map((issue) => ({
        field: issue.path.map(String).join('.'),
        message: issue.message,
      }));
      // A malformed configuration is the user's to mend, field by field; anything else is the window's fault.
      const configFields = fields.filter(({ field }) => field.startsWith('config.'));
      if (configFields.length > 0 && configFields.length === fields.length) {
        throw invalidConfig(configFields.map(({ field, message }) => ({ field: field.slice(7), message })));
      }
      const first = fields[0];
      throw new ApiError({
        code: 'badRequest',
        message: `${method}: ${first ? `${first.field} ${first.message}`.trim() : 'malformed parameters'}`,
      });
    }
    // The schema just checked is this command's own, which TypeScript cannot follow through the lookup.
    const handler = this.#handlers[command] as (input: unknown, connection: Connection) => unknown;
    return await handler(parsed.data, this);
  }

  #answer(message: ResponseMessage): void {
    if (!this.#closed) this.#send(message);
  }
}

export function invalidConfig(
  fields: { field: string; message: string; hint?: string | undefined }[],
): ApiError {
  const first = fields[0];
  return new ApiError({
    code: 'invalidConfig',
    message: first ? `${first.field}: ${first.message}` : 'The configuration is not valid.',
    fields,
  });
}
