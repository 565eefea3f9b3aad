import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import type { EventData } from '../../src-core/protocol/api.ts';
import type { Inspection, InspectionQuery, RegionDetail } from '../../src-core/protocol/inspection.ts';
import { ApiError } from '../../src-core/protocol/messages.ts';
import {
  type Accelerator,
  describeProblem,
  type EngineKind,
  type EngineStatus,
} from '../../src-core/protocol/engine.ts';
import type { EngineSample } from '../../src-core/protocol/engine-comparison.ts';
import type { HardwareProbe } from '../../src-core/protocol/hardware-probe.ts';
import type {
  ExitHistoryPoint,
  Snapshot,
  Statistics,
  Vm,
  VmConfig,
  VmEnd,
  VmState,
} from '../../src-core/protocol/vm.ts';
import { type Counters, EngineUseTracker } from './engine-use.ts';
import type { HostEngines } from './engines.ts';
import type { Registry, SnapshotRecord, VmRecord } from './registry.ts';
import type { SnapshotFiles } from './snapshot-files.ts';
import { StatisticsTracker } from './statistics.ts';
import { KeptTerminal } from './terminal.ts';
import { VmProcessClient, type VmProcessEvent } from './vm-process-client.ts';
import type { ProcessEnd, VmLauncher } from './vm-process-handle.ts';

/** What a VM tells the host. */
export interface VmListener {
  changed(): void;
  crashed(end: VmEnd): void;
  snapshotsChanged(): void;
  statistics(statistics: Statistics): void;
  progress(progress: Omit<EventData<'progress'>, 'vmId'>): void;
  /** Something went wrong that no command is waiting for. */
  fault(error: Error): void;
}

export interface VmServices {
  registry: Registry;
  launch: VmLauncher;
  snapshotFiles: SnapshotFiles;
  engines: HostEngines;
}

/** One run: a process from its launch to its end. */
interface Run {
  client: VmProcessClient;
  /** The configuration the machine was built with. */
  config: VmConfig;
  engine: EngineStatus;
  tracker: StatisticsTracker;
  /** What it does by engine; undefined before it has begun. */
  uses: EngineUseTracker | undefined;
  /** How it is going to end, once that is known; a process that ends without it has crashed. */
  expectedEnd: VmEnd | undefined;
  /** Resolves when the process is gone. */
  gone: Promise<void>;
}

type SerialPort = 0 | 1;

/** How long a VM's process may take to go after the guest is done, ms. */
const LEAVE_PATIENCE_MS = 5000;

/** One VM: its record, its process when it runs, its serial screens. */
export class VmController {
  readonly #record: VmRecord;
  readonly #services: VmServices;
  readonly #listener: VmListener;
  readonly #terminals: readonly [KeptTerminal, KeptTerminal];
  #run: Run | undefined;
  /** The process that is loading a snapshot, to become the run. */
  #next: Run | undefined;
  #state: VmState;
  #busy: Vm['busy'] = null;
  #snapshots: SnapshotRecord[];
  #statistics: Statistics | null = null;

  constructor(record: VmRecord, services: VmServices, listener: VmListener) {
    this.#record = record;
    this.#services = services;
    this.#listener = listener;
    this.#terminals = [this.#makeTerminal(0), this.#makeTerminal(1)];
    this.#snapshots = services.registry.listSnapshots(record.id);
    if (record.runStartedAt !== null) {
      record.runStartedAt = null;
      record.lastEnd = {
        kind: 'crash',
        at: Date.now(),
        message: 'Switchyard itself ended while this virtual machine was running.',
        hint: 'Its memory is lost; its snapshots are kept. Start it again, or return to a snapshot.',
      };
      services.registry.saveVm(record);
    }
    this.#state = record.lastEnd?.kind === 'crash' ? 'crashed' : 'stopped';
  }

  get id(): string {
    return this.#record.id;
  }

  get config(): VmConfig {
    return this.#record.config;
  }

  get origin(): VmRecord['origin'] {
    return this.#record.origin;
  }

  get state(): VmState {
    return this.#state;
  }

  get statistics(): Statistics | null {
    return this.#statistics;
  }

  get snapshots(): Snapshot[] {
    return this.#snapshots.map(publicSnapshot);
  }

  get currentSnapshotId(): string | null {
    return this.#record.currentSnapshotId;
  }

  /** Process id of the run under way, for tests and messages. */
  get pid(): number | undefined {
    return this.#run?.client.pid;
  }

  view(): Vm {
    const record = this.#record;
    const live = this.#state === 'running' || this.#state === 'paused';
    const engine = live ? (this.#run?.engine ?? null) : null;
    return {
      id: record.id,
      config: record.config,
      origin: record.origin,
      state: this.#state,
      busy: this.#busy,
      activeEngine: engine?.kind ?? null,
      engineStatus: engine,
      createdAt: record.createdAt,
      modifiedAt: record.modifiedAt,
      startedAt: record.runStartedAt,
      lastEnd: record.lastEnd,
      restartNeeded: this.#run !== undefined && machineOf(this.#run.config) !== machineOf(record.config),
      snapshotCount: this.#snapshots.length,
      currentSnapshotId: record.currentSnapshotId,
    };
  }

  terminal(port: SerialPort): KeptTerminal {
    return this.#terminals[port];
  }

  /** Saves a new configuration; a run under way goes on with the one it has. */
  update(config: VmConfig): void {
    this.#record.config = config;
    this.#record.modifiedAt = Date.now();
    this.#save();
  }

  async start(): Promise<void> {
    this.#require(['stopped', 'crashed'], 'start');
    for (const terminal of this.#terminals) terminal.clear();
    this.#state = 'starting';
    this.#record.lastEnd = null;
    this.#record.currentSnapshotId = null;
    const run = this.#launch(this.config);
    this.#run = run;
    this.#record.runStartedAt = Date.now();
    this.#save();
    try {
      const probe = await this.#probeFor(this.config);
      const { config } = run;
      const params = { config, snapshotPath: null, paused: false, probe };
      begin(run, await run.client.call('start', params));
    } catch (error) {
      throw await this.#startFailed(run, error);
    }
    this.#setState('running');
  }

  async pause(): Promise<void> {
    await this.#running('pause', ['running']).client.call('pause', {});
    this.#setState('paused');
  }

  async resume(): Promise<void> {
    await this.#running('resume', ['paused']).client.call('resume', {});
    this.#setState('running');
  }

  async reset(): Promise<void> {
    const run = this.#running('reset', ['running', 'paused']);
    await run.client.call('reset', {});
    if (this.#state === 'paused') await run.client.call('resume', {});
    this.#record.currentSnapshotId = null;
    this.#save();
    this.#setState('running');
  }

  async powerOff(): Promise<void> {
    await this.#running('press the power button of', ['running']).client.call('powerButton', {});
  }

  /** Ends the process at once and waits for it to be gone. */
  async forceOff(message = 'It was forced off.'): Promise<void> {
    const run = this.#run;
    if (!run && !this.#next) throw wrongState(`${this.config.name} is not running.`);
    // A restore under way ends too.
    this.#next?.client.kill();
    if (run) await this.#kill(run, { kind: 'forceOff', at: Date.now(), message });
  }

  /** @param accelerator of the hardware engine */
  async setEngine(engine: EngineKind, accelerator: Accelerator): Promise<void> {
    if (this.#run) {
      this.#running('change the engine of', ['running', 'paused']);
      const config = { ...this.config, engine, accelerator };
      const probe = await this.#probeFor(config);
      // Finding that out takes a while.
      const run = this.#running('change the engine of', ['running', 'paused']);
      const target = engine === 'software' ? { kind: engine } : { kind: engine, accelerator };
      const { problem } = await run.client.call('switchEngine', { target, probe });
      if (problem) {
        throw new ApiError({
          code: 'unavailable',
          message: describeProblem(problem),
          hint: `${this.config.name} goes on as it was.`,
        });
      }
    }
    this.update({ ...this.config, engine, accelerator });
  }

  /** What the process of a VM needs to know of the host's hardware. */
  async #probeFor({ engine, accelerator }: VmConfig): Promise<HardwareProbe | null> {
    const { engines } = this.#services;
    return engine === 'hardware' && accelerator === 'kvm' ? engines.probe() : engines.known;
  }

  /** What it did on each engine since a time. */
  engineSamples(fromMs: number): EngineSample[] {
    const at = Date.now();
    const kept = this.#services.registry.engineSamples(this.id, fromMs);
    return [...kept, ...(this.#run?.uses?.pending ?? []).map((use) => ({ ...use, at }))];
  }

  async inspect(query: InspectionQuery): Promise<Inspection | null> {
    return this.#running('inspect', ['running', 'paused']).client.call('inspect', query);
  }

  async inspectRegion(region: number): Promise<RegionDetail | null> {
    return this.#running('inspect', ['running', 'paused']).client.call('inspectRegion', { region });
  }

  async serialInput(port: SerialPort, text: string): Promise<void> {
    const run = this.#run;
    if (!run || (this.#state !== 'running' && this.#state !== 'paused')) {
      throw wrongState(`${this.config.name} is not running: nothing reads its serial port.`);
    }
    await run.client.call('serialInput', { port, bytes: Buffer.from(text, 'utf8') });
  }

  async takeSnapshot(name: string): Promise<Snapshot> {
    const run = this.#running('take a snapshot of', ['running', 'paused']);
    const id = randomUUID();
    return this.#whileBusy('snapshot', async () => {
      const { sizeBytes, screens } = await this.#saveState(run, id);
      const record: SnapshotRecord = {
        id,
        vmId: this.id,
        name,
        parentId: this.#record.currentSnapshotId,
        createdAt: Date.now(),
        sizeBytes,
        memoryMib: run.config.memoryMib,
        engine: run.engine.kind,
        config: run.config,
        screens,
      };
      this.#services.registry.addSnapshot(record);
      this.#record.currentSnapshotId = id;
      this.#snapshots.push(record);
      this.#listener.snapshotsChanged();
      return publicSnapshot(record);
    });
  }

  /**
   * Returns to a snapshot. Its state is loaded by a new process first; only then does the present one end, so that
   * a snapshot that cannot be loaded costs nothing.
   */
  async restoreSnapshot(snapshotId: string): Promise<void> {
    this.#require(['stopped', 'crashed', 'running', 'paused'], 'return to a snapshot of');
    const snapshot = this.#snapshot(snapshotId);
    const snapshotPath = this.#services.snapshotFiles.path(snapshot.id);
    if (!existsSync(snapshotPath)) {
      throw new ApiError({
        code: 'file',
        message: `The file of the snapshot "${snapshot.name}" is missing: ${snapshotPath}`,
        hint: 'Put the file back, or delete the snapshot.',
      });
    }
    await this.#whileBusy('restore', async () => {
      const { engine, accelerator } = this.config;
      const next = this.#launch({ ...snapshot.config, engine, accelerator });
      this.#next = next;
      try {
        const probe = await this.#probeFor(next.config);
        const { config } = next;
        begin(next, await next.client.call('start', { config, snapshotPath, paused: true, probe }));
      } catch (error) {
        await this.#discard(next);
        throw error;
      } finally {
        this.#next = undefined;
      }
      const previous = this.#run;
      this.#run = next;
      if (previous) await this.#discard(previous);
      this.#record.lastEnd = null;
      this.#record.runStartedAt = Date.now();
      this.#record.currentSnapshotId = snapshot.id;
      this.#save();
      this.#terminals.forEach((terminal, port) => terminal.restore(snapshot.screens[String(port)] ?? ''));
      await next.client.call('resume', {});
      this.#setState('running');
      this.#listener.snapshotsChanged();
    });
  }

  deleteSnapshot(snapshotId: string): void {
    const snapshot = this.#snapshot(snapshotId);
    // The entry goes first: a file without an entry is cleaned up at the next start.
    this.#services.registry.deleteSnapshot(snapshot);
    this.#services.snapshotFiles.remove(snapshot.id);
    this.#snapshots = this.#services.registry.listSnapshots(this.id);
    if (this.#record.currentSnapshotId === snapshot.id) this.#record.currentSnapshotId = snapshot.parentId;
    this.#listener.snapshotsChanged();
    this.#listener.changed();
  }

  renameSnapshot(snapshotId: string, name: string): Snapshot {
    const snapshot = this.#snapshot(snapshotId);
    this.#services.registry.renameSnapshot(snapshot.id, name);
    snapshot.name = name;
    this.#listener.snapshotsChanged();
    return publicSnapshot(snapshot);
  }

  /** Removes everything kept of the VM. It must not be running. */
  delete(): void {
    this.#require(['stopped', 'crashed'], 'delete');
    this.#services.registry.deleteVm(this.id);
    for (const snapshot of this.#snapshots) this.#services.snapshotFiles.remove(snapshot.id);
    this.dispose();
  }

  dispose(): void {
    for (const terminal of this.#terminals) terminal.dispose();
  }

  #makeTerminal(port: SerialPort): KeptTerminal {
    return new KeptTerminal((text) => {
      // An answer the guest no longer waits for is worth no error.
      if (this.#run && this.#state === 'running') this.serialInput(port, text).catch(() => undefined);
    });
  }

  #launch(config: VmConfig): Run {
    let gone: () => void = () => undefined;
    const run: Run = {
      client: new VmProcessClient(
        this.#services.launch(config.name),
        (event) => this.#receive(run, event),
        (end) => {
          gone();
          this.#ended(run, end);
        },
      ),
      config,
      engine: {
        kind: config.engine,
        accelerator: null,
        problem: null,
        detour: null,
        lastSwitch: null,
        switches: 0,
      },
      tracker: new StatisticsTracker(this.id),
      uses: undefined,
      expectedEnd: undefined,
      gone: new Promise((resolve) => (gone = resolve)),
    };
    return run;
  }

  #receive(run: Run, event: VmProcessEvent): void {
    // A process being prepared or on its way out has no say about the VM, except for how far preparing it is.
    if (run !== this.#run && event.type !== 'progress') return;
    switch (event.type) {
      case 'ready':
      case 'reset':
        return;
      case 'serial': {
        const { port, bytes } = event;
        this.#terminals[port].write(bytes, () => {
          // Fails only when the process has ended, which is reported elsewhere.
          run.client.call('serialAck', { port, length: bytes.length }).catch(() => undefined);
        });
        return;
      }
      case 'statistics': {
        const { statistics, point } = run.tracker.tick(event, Date.now());
        this.#statistics = statistics;
        run.uses?.count(event);
        if (point) this.#keepSample(run, point);
        this.#listener.statistics(statistics);
        return;
      }
      case 'progress':
        this.#listener.progress({ task: event.task, fraction: event.fraction, text: event.text });
        return;
      case 'engine':
        run.engine = event.status;
        run.uses?.count(event, event.status);
        this.#listener.changed();
        return;
      case 'ended':
        run.expectedEnd = {
          kind: event.kind,
          at: Date.now(),
          message: event.message,
          ...(event.hint === undefined ? {} : { hint: event.hint }),
        };
        this.#setState('stopping');
        // It ends by itself at once; one that cannot is helped along.
        setTimeout(() => run.client.kill(), LEAVE_PATIENCE_MS).unref();
    }
  }

  /** What was counted since the last point of the time series. */
  #keepUses(run: Run): void {
    try {
      this.#services.registry.addEngineSamples(this.id, run.uses?.take(Date.now()) ?? []);
    } catch (error) {
      this.#listener.fault(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** A full disk must cost a point of the time series, not the VMs. */
  #keepSample(run: Run, point: ExitHistoryPoint): void {
    try {
      this.#services.registry.addSample(this.id, point);
    } catch (error) {
      this.#listener.fault(error instanceof Error ? error : new Error(String(error)));
    }
    this.#keepUses(run);
  }

  #ended(run: Run, processEnd: ProcessEnd): void {
    if (run !== this.#run) return;
    this.#run = undefined;
    this.#keepUses(run);
    const end = run.expectedEnd ?? describeCrash(processEnd);
    this.#record.runStartedAt = null;
    this.#record.lastEnd = end;
    this.#state = end.kind === 'crash' ? 'crashed' : 'stopped';
    this.#save();
    if (end.kind === 'crash') this.#listener.crashed(end);
  }

  async #kill(run: Run, end: VmEnd): Promise<void> {
    run.expectedEnd = end;
    if (run === this.#run) this.#setState('stopping');
    run.client.kill();
    await run.gone;
  }

  /** Ends a process that is not (or no longer) the VM's run. */
  async #discard(run: Run): Promise<void> {
    run.client.kill();
    await run.gone;
  }

  async #startFailed(run: Run, error: unknown): Promise<ApiError> {
    const failure = ApiError.from(error);
    // A process that ended under way has been dealt with as a crash, or was forced off meanwhile.
    if (failure.code !== 'vmProcessEnded' && run === this.#run) {
      await this.#kill(run, {
        kind: 'startFailed',
        at: Date.now(),
        message: failure.message,
        ...(failure.hint === undefined ? {} : { hint: failure.hint }),
      });
    }
    return failure;
  }

  async #saveState(run: Run, id: string): Promise<{ sizeBytes: number; screens: Record<string, string> }> {
    const paused = this.#state === 'paused';
    // The screens must be those of the saved moment, so the guest stands still meanwhile.
    if (!paused) await run.client.call('pause', {});
    try {
      const { sizeBytes } = await run.client.call('saveSnapshot', {
        path: this.#services.snapshotFiles.path(id),
      });
      const [first, second] = await Promise.all(this.#terminals.map((terminal) => terminal.serialize()));
      return { sizeBytes, screens: { 0: first ?? '', 1: second ?? '' } };
    } finally {
      if (!paused && run === this.#run) await run.client.call('resume', {});
    }
  }

  async #whileBusy<T>(busy: Exclude<Vm['busy'], null>, work: () => Promise<T>): Promise<T> {
    this.#requireIdle();
    this.#busy = busy;
    this.#listener.changed();
    try {
      return await work();
    } finally {
      this.#busy = null;
      this.#listener.changed();
    }
  }

  #requireIdle(): void {
    if (this.#busy === 'snapshot') throw wrongState(`A snapshot of ${this.config.name} is being taken.`);
    if (this.#busy === 'restore') throw wrongState(`${this.config.name} is returning to a snapshot.`);
  }

  #require(states: VmState[], action: string): void {
    this.#requireIdle();
    if (!states.includes(this.#state)) {
      throw wrongState(`Cannot ${action} ${this.config.name}: it is ${STATE_WORDS[this.#state]}.`);
    }
  }

  #running(action: string, states: VmState[]): Run {
    this.#require(states, action);
    if (!this.#run) throw new Error('a running VM has no process');
    return this.#run;
  }

  #snapshot(id: string): SnapshotRecord {
    const snapshot = this.#snapshots.find((candidate) => candidate.id === id);
    if (!snapshot)
      throw new ApiError({ code: 'notFound', message: 'This snapshot does not exist any more.' });
    return snapshot;
  }

  #setState(state: VmState): void {
    // The process may have ended while its answer was on the way.
    if (!this.#run) return;
    this.#state = state;
    this.#listener.changed();
  }

  #save(): void {
    this.#services.registry.saveVm(this.#record);
    this.#listener.changed();
  }
}

const STATE_WORDS: Record<VmState, string> = {
  stopped: 'not running',
  starting: 'starting',
  running: 'running',
  paused: 'paused',
  stopping: 'stopping',
  crashed: 'not running (it crashed)',
};

/** A run's machine is there. */
function begin(run: Run, { engine, ...counters }: Counters & { engine: EngineStatus }): void {
  run.engine = engine;
  run.uses = new EngineUseTracker(engine, counters);
}

function wrongState(message: string): ApiError {
  return new ApiError({ code: 'wrongState', message });
}

function publicSnapshot({ config: _config, screens: _screens, ...snapshot }: SnapshotRecord): Snapshot {
  return snapshot;
}

/** The part of a configuration that a machine is built from, for comparing. */
function machineOf({
  name: _name,
  notes: _notes,
  engine: _engine,
  accelerator: _accelerator,
  ...machine
}: VmConfig): string {
  return JSON.stringify(machine);
}

function describeCrash({ code, signal, stderr }: ProcessEnd): VmEnd {
  const how = signal === null ? `with exit code ${code ?? 'unknown'}` : `by signal ${signal}`;
  const said = /^\S*Error:.*$/m.exec(stderr)?.[0];
  return {
    kind: 'crash',
    at: Date.now(),
    message: `Its process ended ${how}${said === undefined ? '' : ` (${said.slice(0, 300)})`}.`,
    hint: 'Its memory is lost; its snapshots are kept. Start it again, or return to a snapshot.',
  };
}
