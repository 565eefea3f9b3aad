import { ApiError } from '../../src-core/protocol/messages.ts';
import {
  vmProcessMessageSchema,
  vmProcessRequests,
  type VmProcessMessage,
  type VmProcessParams,
  type VmProcessRequest,
  type VmProcessResult,
} from '../../src-core/protocol/vm-process.ts';
import type { ProcessEnd, VmProcessHandle } from './vm-process-handle.ts';

interface Call {
  request: VmProcessRequest;
  resolve: (result: unknown) => void;
  reject: (error: ApiError) => void;
}

/** What a VM's process reports by itself. */
export type VmProcessEvent = Exclude<VmProcessMessage, { type: 'reply' | 'failure' }>;

/** Requests to the process of one VM and its answers. Calls under way fail with `vmProcessEnded` when it ends. */
export class VmProcessClient {
  readonly #handle: VmProcessHandle;
  readonly #calls = new Map<number, Call>();
  readonly #onEvent: (event: VmProcessEvent) => void;
  readonly #onEnd: (end: ProcessEnd) => void;
  #nextId = 1;
  #ended = false;

  constructor(
    handle: VmProcessHandle,
    onEvent: (event: VmProcessEvent) => void,
    onEnd: (end: ProcessEnd) => void,
  ) {
    this.#handle = handle;
    this.#onEvent = onEvent;
    this.#onEnd = onEnd;
    handle.onMessage = (message) => this.#receive(message);
    handle.onEnd = (end) => this.#finish(end);
  }

  get pid(): number | undefined {
    return this.#handle.pid;
  }

  call<R extends VmProcessRequest>(request: R, params: VmProcessParams<R>): Promise<VmProcessResult<R>> {
    return new Promise<VmProcessResult<R>>((resolve, reject) => {
      if (this.#ended) {
        reject(processEnded());
        return;
      }
      const id = this.#nextId++;
      this.#calls.set(id, { request, resolve: resolve as (result: unknown) => void, reject });
      this.#handle.send({ id, request, params });
    });
  }

  kill(): void {
    this.#handle.kill();
  }

  #receive(raw: unknown): void {
    const parsed = vmProcessMessageSchema.safeParse(raw);
    // Guest code drives that process; one that talks nonsense is not to be trusted further.
    if (!parsed.success) {
      this.#handle.kill();
      return;
    }
    const message = parsed.data;
    if (message.type !== 'reply' && message.type !== 'failure') {
      this.#onEvent(message);
      return;
    }
    const call = this.#calls.get(message.id);
    if (!call) {
      this.#handle.kill();
      return;
    }
    this.#calls.delete(message.id);
    if (message.type === 'failure') {
      call.reject(new ApiError(message.error));
      return;
    }
    const result = vmProcessRequests[call.request].result.safeParse(message.result);
    if (result.success) call.resolve(result.data);
    else
      call.reject(
        new ApiError({ code: 'internal', message: `the VM's answer to ${call.request} is malformed` }),
      );
  }

  #finish(end: ProcessEnd): void {
    this.#ended = true;
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    for (const call of calls) call.reject(processEnded());
    this.#onEnd(end);
  }
}

function processEnded(): ApiError {
  return new ApiError({ code: 'vmProcessEnded', message: "The virtual machine's process has ended." });
}
