import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { ExitSnapshot } from '../src-core/accounting/exits.ts';
import { inspect, inspectRegion } from '../src-core/engines/software/inspector/inspect.ts';
import { BootError } from '../src-core/firmware/boot.ts';
import { EngineUnavailableError, Machine, type MachineEnd } from '../src-core/machine/machine.ts';
import { restoreSnapshot, SnapshotError, writeSnapshot } from '../src-core/machine/snapshot.ts';
import { ApiError } from '../src-core/protocol/messages.ts';
import {
  STATISTICS_INTERVAL_MS,
  VM_SERIAL_WINDOW_BYTES,
  vmProcessRequests,
  vmProcessRequestSchema,
  type VmProcessMessage,
  type VmProcessParams,
  type VmProcessRequest,
  type VmProcessResult,
} from '../src-core/protocol/vm-process.ts';
import { writeDurably } from './durable-file.ts';
import { LoadError, loadMachineFiles } from './load.ts';
import { connectToHost } from './vm-process/host-pipe.ts';

/** The process of one VM: a machine, and the host's requests to it. */

type Handlers = {
  [R in VmProcessRequest]: (params: VmProcessParams<R>) => VmProcessResult<R> | Promise<VmProcessResult<R>>;
};

class VmProcess {
  readonly #send: (message: VmProcessMessage) => Promise<void>;
  readonly #handlers: Handlers;
  #machine: Machine | undefined;
  /** Serial output the host has not acknowledged, bytes by port. */
  readonly #outstanding = [0, 0];

  constructor(send: (message: VmProcessMessage) => Promise<void>) {
    this.#send = send;
    this.#handlers = {
      start: (params) => this.#start(params),
      pause: () => this.#do((machine) => machine.pause()),
      resume: () =>
        this.#do((machine) => {
          // A machine that was started paused has not run yet.
          if (machine.state === 'created') machine.start();
          else machine.resume();
        }),
      reset: () => this.#do((machine) => machine.reset()),
      powerButton: () => this.#do((machine) => machine.powerButton()),
      switchEngine: async ({ target, probe }) => {
        const machine = this.#started();
        await machine.prepareEngine(target, probe ?? undefined);
        return machine.switchEngine(target, probe ?? undefined);
      },
      serialInput: ({ port, bytes }) => this.#do((machine) => machine.sendSerial(port, bytes)),
      serialAck: ({ port, length }) => this.#do((machine) => this.#acknowledge(machine, port, length)),
      saveSnapshot: ({ path }) => this.#saveSnapshot(path),
      inspect: (query) => {
        const { translator } = this.#started();
        return translator ? inspect(translator, query) : null;
      },
      inspectRegion: ({ region }) => {
        const { translator } = this.#started();
        return (translator && inspectRegion(translator, region)) ?? null;
      },
    };
  }

  /** Takes one message from the host and answers it. */
  async receive(message: unknown): Promise<void> {
    const { id, request, params } = vmProcessRequestSchema.parse(message);
    try {
      // The schema is this request's own, which TypeScript cannot follow through the lookup.
      const handler = this.#handlers[request] as (params: unknown) => unknown;
      const result: unknown = await handler(vmProcessRequests[request].params.parse(params));
      await this.#send({ type: 'reply', id, result });
    } catch (error) {
      await this.#send({ type: 'failure', id, error: describeError(error).toData() });
    }
  }

  async #start(params: VmProcessParams<'start'>): Promise<VmProcessResult<'start'>> {
    if (this.#machine) throw new Error('the machine has been started already');
    const { config, snapshotPath, paused, probe } = params;
    const machine = new Machine(
      {
        memoryMib: config.memoryMib,
        engine: config.engine,
        hardware: { accelerator: config.accelerator },
        engineRefusal: 'software',
        ...loadMachineFiles(config),
      },
      { probe: probe ?? undefined },
    );
    this.#machine = machine;
    if (snapshotPath !== null) {
      await restoreSnapshot(machine, () => createReadStream(snapshotPath), {
        size: (await stat(snapshotPath)).size,
        onProgress: (fraction) =>
          this.#report({ type: 'progress', task: 'restore', fraction, text: 'Loading memory' }),
      });
    }
    machine.on('serial', (port, bytes) => this.#sendSerial(machine, port, bytes));
    machine.on('reset', (cause) => {
      if (cause === 'tripleFault') this.#end({ kind: 'tripleFault' }, machine);
      else this.#report({ type: 'reset' });
    });
    machine.on('engine', (status) => this.#report({ type: 'engine', status, ...countersOf(machine) }));
    machine.on('ended', (end) => this.#end(end, machine));
    setInterval(() => this.#sendStatistics(machine), STATISTICS_INTERVAL_MS);
    const counters = countersOf(machine);
    if (!paused) machine.start();
    return { engine: machine.engineStatus, ...counters };
  }

  async #saveSnapshot(path: string): Promise<{ sizeBytes: number }> {
    const machine = this.#started();
    const sizeBytes = await writeDurably(path, async (file) => {
      const chunks = writeSnapshot(machine, {
        onProgress: (fraction) =>
          this.#report({ type: 'progress', task: 'snapshot', fraction, text: 'Saving memory' }),
      });
      for await (const chunk of chunks) await file.writeFile(chunk);
    });
    return { sizeBytes };
  }

  #do(action: (machine: Machine) => void): Record<string, never> {
    action(this.#started());
    return {};
  }

  #started(): Machine {
    if (!this.#machine) throw new Error('the machine has not been started');
    return this.#machine;
  }

  #sendSerial(machine: Machine, port: number, bytes: Uint8Array): void {
    if (port !== 0 && port !== 1) return;
    const outstanding = (this.#outstanding[port] ?? 0) + bytes.length;
    this.#outstanding[port] = outstanding;
    if (outstanding > VM_SERIAL_WINDOW_BYTES) machine.setSerialReady(port, false);
    this.#report({ type: 'serial', port, bytes });
  }

  #acknowledge(machine: Machine, port: number, length: number): void {
    const before = this.#outstanding[port] ?? 0;
    const after = Math.max(0, before - length);
    this.#outstanding[port] = after;
    const enough = VM_SERIAL_WINDOW_BYTES / 2;
    if (before > enough && after <= enough) machine.setSerialReady(port, true);
  }

  #sendStatistics(machine: Machine): void {
    const { engine, guestNs, exits, counters } = machine.statistics();
    const { user, system } = process.cpuUsage();
    this.#report({
      type: 'statistics',
      engine,
      guestNs,
      exits,
      counters,
      cpuMs: (user + system) / 1000,
      residentBytes: process.memoryUsage.rss(),
    });
  }

  /** The machine is done: says how and ends the process. */
  #end(end: MachineEnd, machine: Machine): void {
    this.#sendStatistics(machine);
    switch (end.kind) {
      case 'powerOff':
        this.#leave({ type: 'ended', kind: 'powerOff', message: 'The guest powered off.' });
        return;
      case 'tripleFault':
        this.#leave({
          type: 'ended',
          kind: 'tripleFault',
          message: 'The guest ran into a triple fault and could not go on.',
          hint: 'Its kernel may need features this machine does not have, or may have been given the wrong files.',
        });
        return;
      case 'panic':
        // Dies as loudly as an uncaught error: the host reports it as a crash, with this message.
        throw end.error;
      case 'reset':
      case 'debugExit':
      case 'stopped':
        throw new Error(`the machine ended in a way it was not asked to: ${end.kind}`);
    }
  }

  #leave(message: VmProcessMessage): void {
    void this.#send(message).then(() => process.exit(0));
  }

  #report(message: VmProcessMessage): void {
    void this.#send(message);
  }
}

function countersOf(machine: Machine): { exits: ExitSnapshot; guestNs: number } {
  return { exits: machine.accounting.snapshot(), guestNs: machine.clock.now() };
}

function describeError(error: unknown): ApiError {
  if (error instanceof LoadError) {
    return new ApiError({
      code: 'file',
      message: error.message,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  }
  if (error instanceof SnapshotError) {
    return new ApiError({
      code: 'file',
      message: error.message,
      hint: 'Delete this snapshot, or return to another.',
    });
  }
  if (error instanceof BootError) return new ApiError({ code: 'file', message: error.message });
  if (error instanceof EngineUnavailableError)
    return new ApiError({ code: 'unavailable', message: error.message });
  if (error instanceof Error && 'syscall' in error) {
    // The file system's own words say it best: no space left on device, permission denied.
    return new ApiError({ code: 'file', message: error.message }, { cause: error });
  }
  return ApiError.from(error);
}

process.title = `switchyard-vm ${process.argv[2] ?? ''}`;
// Ctrl-C in the host's terminal reaches the whole process group; the host decides what becomes of its VMs.
for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => undefined);

const pipe = connectToHost();
const vmProcess = new VmProcess((message) => pipe.send(message));
pipe.onMessage = (message) => void vmProcess.receive(message);
await pipe.send({ type: 'ready' });
