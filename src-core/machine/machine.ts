import { EventEmitter } from 'node:events';
import { type ExitSnapshot, ExitAccounting } from '../accounting/exits.ts';
import { DebugConsole } from '../devices/debug-console.ts';
import { DebugExit } from '../devices/debug-exit.ts';
import type { Uart } from '../devices/uart.ts';
import { EngineSet } from '../engines/engine-set.ts';
import type { ModelStatistics } from '../engines/hardware/model/meter.ts';
import { ModelEngine } from '../engines/hardware/model/model-engine.ts';
import type { Translator } from '../engines/software/translator/translator.ts';
import type { TranslatorStatistics } from '../protocol/inspection.ts';
import type { BootPlan, BootRegisters } from '../firmware/boot.ts';
import { planBoot } from '../firmware/load.ts';
import { initializeChipset, platformTables } from '../firmware/platform.ts';
import {
  machineConfigSchema,
  type MachineConfig,
  type MachineConfigInput,
} from '../protocol/machine-config.ts';
import type { EngineKind, EngineStatus, EngineSwitch, EngineTarget } from '../protocol/engine.ts';
import type { HardwareProbe } from '../protocol/hardware-probe.ts';
import type { EngineCounters } from '../protocol/vm.ts';
import { Cpu } from '../x86/cpu.ts';
import { MSR } from '../x86/layout.ts';
import { Arena } from './arena.ts';
import { Board, SERIAL_PORTS } from './board.ts';
import { MemoryBus, PortBus } from './bus.ts';
import { HostClock, IcountClock, type TimerClock } from './clock.ts';
import { EngineSelector } from './engine-selector.ts';
import { OutputBuffer } from './output.ts';
import { RunLoop } from './run-loop.ts';

export { EngineUnavailableError } from '../engines/unavailable.ts';

/** What guests read as version of firmware and machine. */
const PLATFORM_VERSION = '0.1';
/** The instruction clock's time at power-on, so that runs can be repeated: 2025-01-01 00:00 UTC. */
const ICOUNT_START_MS = Date.UTC(2025, 0, 1);

/** `created`: not started yet. `off`: ended, for good. */
export type MachineState = 'created' | 'running' | 'paused' | 'off';

export type ResetCause = 'guest' | 'tripleFault' | 'host';

/** How a machine ended. */
export type MachineEnd =
  /** The guest entered S5. */
  | { kind: 'powerOff' }
  /** The guest reset itself, with noReboot. */
  | { kind: 'reset' }
  /** Triple fault, with noReboot. */
  | { kind: 'tripleFault' }
  /** The guest wrote `value` to isa-debug-exit. */
  | { kind: 'debugExit'; value: number }
  /** `stop` was called. */
  | { kind: 'stopped' }
  /** A fault in Switchyard itself. */
  | { kind: 'panic'; error: Error };

/** Events and their arguments. Output comes in chunks, at most one a slice for each source. */
export interface MachineEvents {
  state: [state: MachineState];
  serial: [port: number, bytes: Uint8Array];
  debugConsole: [bytes: Uint8Array];
  logPort: [port: number, bytes: Uint8Array];
  /** The machine was reset and boots again. */
  reset: [cause: ResetCause];
  /** The engine was changed, could not be changed as asked, gave up, or leaves the guest to software for a while. */
  engine: [status: EngineStatus];
  /** Comes once, last. */
  ended: [end: MachineEnd];
}

export interface MachineStatistics {
  state: MachineState;
  engine: EngineKind;
  /** Guest ns since power-on. */
  guestNs: number;
  exits: ExitSnapshot;
  /** Last POST code. */
  postCode: number;
  /** What the software engine has translated; undefined where it has not run. */
  translator: TranslatorStatistics | undefined;
  engineStatus: EngineStatus;
  /** What lies under the hardware engine counted, by accelerator. */
  counters: EngineCounters;
  /** What the model of hardware virtualization has counted, while it runs the guest. Its cycles are modelled. */
  model: ModelStatistics | undefined;
}

export interface MachineOptions {
  /** What this host's hardware virtualization was found to do: guests it is not fit for are then not given to it. */
  probe?: HardwareProbe | undefined;
}

/** One virtual machine: arena, buses, devices, vCPU and the engine that runs it. */
export class Machine extends EventEmitter<MachineEvents> {
  /** But for what it boots, which may be large and is not kept for longer than it may be needed. */
  readonly config: Omit<MachineConfig, 'kernel' | 'initrd' | 'modules'>;
  readonly arena: Arena;
  readonly ports = new PortBus();
  readonly memory: MemoryBus;
  readonly clock: TimerClock;
  readonly accounting = new ExitAccounting();
  readonly board: Board;
  readonly cpu: Cpu;
  #bootPlan: BootPlan | undefined;
  readonly #loop: RunLoop;
  readonly #serialOutput = SERIAL_PORTS.map(() => new OutputBuffer());
  readonly #debugOutput = new OutputBuffer();
  readonly #logOutput = new Map<number, OutputBuffer>();
  readonly #engines: EngineSet;
  readonly #selector: EngineSelector;
  #state: MachineState = 'created';
  /** What a device asked for during the present run of the engine. */
  #request: MachineEnd | undefined;
  /** The software engine has run the guest, or does. */
  #softwareUsed = false;

  /** Checks the configuration and what it boots. Throws ZodError, BootError or EngineUnavailableError. */
  constructor(config: MachineConfigInput, { probe }: MachineOptions = {}) {
    super();
    const { kernel, initrd, modules, ...others } = machineConfigSchema.parse(config);
    const { memoryMib, clock, firmware, translator, hardware } = others;
    this.config = others;
    this.#bootPlan = planBoot({ ...others, kernel, initrd, modules }, memoryMib * 1024 * 1024);
    this.arena = new Arena(memoryMib);
    this.memory = new MemoryBus(this.arena);
    this.clock = clock === 'icount' ? new IcountClock(() => this.cpu.instructionCount()) : new HostClock();
    this.cpu = new Cpu({
      arena: this.arena,
      memory: this.memory,
      ports: this.ports,
      clock: this.clock,
      // The controllers come after the processor, whose instruction count their clock may be.
      interrupts: {
        hasInterrupt: () => this.board.localApic.hasInterrupt(),
        acknowledge: () => this.board.localApic.acknowledge(),
      },
      accounting: this.accounting,
    });
    this.board = this.#makeBoard();
    this.#connectCpu();
    this.#attachDebugPorts();
    if (firmware) this.memory.installRom(firmware);
    const { arena, cpu } = this;
    this.#engines = new EngineSet({ arena, cpu, clock, translator, hardware });
    this.#selector = this.#selectEngine(probe);
    if (probe && probe.verdict !== 'unable') this.#engines.warmUp();
    this.memory.onRemap = () => this.#selector.current.flush();
    this.#loop = new RunLoop(this.clock, this.accounting, {
      engine: () => this.#selector.current,
      afterRun: () => {
        this.#selector.checkRun();
        return this.#carryOutRequest();
      },
      onShutdown: () => this.#resetOrEnd('tripleFault'),
      afterSlice: () => this.#flushOutput(),
      onPanic: (error) => this.#panic(error),
    });
    this.#boot();
    // Its memory is never filled again.
    if (this.config.noReboot && this.#bootPlan) this.#bootPlan = { ...this.#bootPlan, images: [] };
  }

  #selectEngine(probe: HardwareProbe | undefined): EngineSelector {
    const { cpu, config } = this;
    const system = this.#bootPlan?.system;
    const onChange = (): void => this.#engineChanged();
    try {
      return new EngineSelector({ cpu, engines: this.#engines, config, system, probe, onChange });
    } catch (error) {
      this.#engines.dispose();
      throw error;
    }
  }

  #makeBoard(): Board {
    const { cpu } = this;
    const epochMs =
      this.config.clock === 'icount' ? () => ICOUNT_START_MS : () => Date.now() - this.clock.now() / 1e6;
    return new Board({
      clock: this.clock,
      ports: this.ports,
      memory: this.memory,
      epochMs,
      onNmi: () => {
        cpu.raiseNmi();
        this.#loop.wake();
      },
      onInterrupt: () => {
        cpu.interruptChanged();
        this.#loop.wake();
      },
      onReset: () => this.#ask({ kind: 'reset' }),
      onPowerOff: () => this.#ask({ kind: 'powerOff' }),
      setA20: (enabled) => cpu.setA20(enabled),
      tscToNs: (tsc) => Number(tsc - BigInt.asIntN(64, cpu.get64(MSR.tscOffset))),
      onTscDeadlineDone: () => cpu.set64(MSR.tscDeadline, 0n),
      onSerialByte: (port, byte) => this.#serialOutput[port]?.push(byte),
    });
  }

  #connectCpu(): void {
    const { cpu, board } = this;
    cpu.onApicBase = (value) => board.setApicBase(value);
    cpu.onTscDeadline = (value) => board.localApic.setTscDeadline(value);
    cpu.readTpr = () => board.localApic.taskPriority;
    cpu.onWriteTpr = (priority) => {
      board.localApic.taskPriority = priority;
    };
    cpu.onFerr = (asserted) => board.setFpuError(asserted);
  }

  #attachDebugPorts(): void {
    const { debugConsole, debugExit, logPorts } = this.config;
    if (debugConsole) new DebugConsole(0xe9, (byte) => this.#debugOutput.push(byte)).attach(this.ports);
    if (debugExit) new DebugExit((value) => this.#ask({ kind: 'debugExit', value })).attach(this.ports);
    for (const port of logPorts) {
      this.#logOutput.set(port, new OutputBuffer());
      // A port nobody has reads as a debug console, which is how SeaBIOS decides whether to write its log to 402h.
      if (this.ports.deviceAt(port) === undefined) new DebugConsole(port, () => undefined).attach(this.ports);
    }
    if (logPorts.length === 0) return;
    this.ports.onWrite = (port, size, value) => {
      const output = this.#logOutput.get(port);
      if (!output) return;
      for (let i = 0; i < size; i++) output.push((value >>> (8 * i)) & 0xff);
    };
  }

  get state(): MachineState {
    return this.#state;
  }

  get engine(): EngineKind {
    return this.#selector.current.kind;
  }

  /** The engine that runs the guest, why it is not the one configured, and how the latest change of it went. */
  get engineStatus(): EngineStatus {
    return this.#selector.status();
  }

  /**
   * Has another engine go on with the guest, running or not, from the instruction it is at. Memory and devices stay where
   * they are; the vCPU's state moves, with what is pending. Where the engine can't be had, or can't run the guest in
   * its present state, the guest stays with the one it has: the result says why.
   * @param probe what this host's hardware virtualization was found to do, where that was found out since
   */
  switchEngine(target: EngineTarget, probe?: HardwareProbe): EngineSwitch {
    if (this.#state === 'off') throw new Error('a machine that has ended has no engine to change');
    if (this.#loop.inEngine) throw new Error('the engine can’t be changed during its run');
    return this.#selector.switchTo(target, probe);
  }

  /**
   * Makes what a change to another engine needs while the guest goes on, so that it stands still for the change alone.
   * `switchEngine` does without, and tells what is in the way.
   */
  async prepareEngine(target: EngineTarget, probe?: HardwareProbe): Promise<void> {
    const steps = this.#selector.prepare(target, probe);
    // An engine made after the end would be taken down by nobody.
    while (this.#state !== 'off' && steps.next().done !== true) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  #engineChanged(): void {
    this.#softwareUsed ||= this.engine === 'software';
    this.emit('engine', this.engineStatus);
  }

  /** Lets a created machine run. @throws EngineUnavailableError */
  start(): void {
    if (this.#state === 'created') this.#run();
  }

  /** Stops the guest and its time at the next instruction boundary. Has an effect on a running machine only. */
  pause(): void {
    if (this.#state !== 'running') return;
    this.#loop.stop();
    this.#selector.current.leave();
    this.#flushOutput();
    this.#setState('paused');
  }

  resume(): void {
    if (this.#state === 'paused') this.#run();
  }

  #run(): void {
    this.#selector.admit();
    this.#softwareUsed ||= this.engine === 'software';
    this.board.rtc.synchronize();
    this.#setState('running');
    this.#loop.start();
  }

  /** Pulls the reset line and boots again, whatever noReboot says. A paused machine stays paused. */
  reset(): void {
    if (this.#state === 'off') return;
    this.#reboot('host');
    this.#loop.wake();
  }

  /** Presses the ACPI power button. A guest that listens shuts down. */
  powerButton(): void {
    if (this.#state === 'off') return;
    this.board.acpi.powerButton();
    this.#loop.wake();
  }

  /** Ends the machine as if its plug were pulled. */
  stop(): void {
    this.#end({ kind: 'stopped' });
  }

  /** Bytes for serial port 0 or 1 to receive. */
  sendSerial(port: number, bytes: Uint8Array): void {
    if (this.#state === 'off') return;
    this.#uart(port).receive(bytes);
    this.#loop.wake();
  }

  /** Bytes sent to a serial port that the guest has not taken yet. */
  serialBacklog(port: number): number {
    return this.#uart(port).receiveBacklog;
  }

  /** Says whether the host takes serial output. While it doesn't, the guest's transmitter is not ready. */
  setSerialReady(port: number, ready: boolean): void {
    if (this.#state === 'off') return;
    this.#uart(port).setTransmitReady(ready);
    this.#flushOutput();
    this.#loop.wake();
  }

  #uart(port: number): Uart {
    const uart = this.board.uarts[port];
    if (!uart) throw new RangeError(`there is no serial port ${port}`);
    return uart;
  }

  statistics(): MachineStatistics {
    const { current } = this.#selector;
    return {
      state: this.#state,
      engine: this.engine,
      guestNs: this.clock.now(),
      exits: this.accounting.snapshot(),
      postCode: this.board.postCode.code,
      translator: this.#softwareUsed ? this.#engines.software.translatorStatistics() : undefined,
      engineStatus: this.engineStatus,
      counters: this.#engines.counters(),
      model: current instanceof ModelEngine ? current.statistics() : undefined,
    };
  }

  /**
   * The software engine's translator, for the translation inspector; undefined while another engine runs the guest. Not
   * to be held on to: it empties when the machine ends.
   */
  get translator(): Translator | undefined {
    return this.engine === 'software' ? this.#engines.software.translator : undefined;
  }

  /** Guest state was replaced from outside: forget everything derived from it. The machine must not be running. */
  stateReplaced(): void {
    this.board.setApicBase(this.cpu.get64(MSR.apicBase));
    this.cpu.stateReplaced();
    this.#selector.current.flush();
    this.#selector.stateReplaced();
  }

  // ---- power-on and the end ------------------------------------------------------------------------------------

  /** Devices, processor and memory as they are when power or the reset line comes up. */
  #boot(): void {
    const now = this.clock.now();
    this.#selector.current.leave();
    this.cpu.reset();
    // The instruction count went back to zero; guest time never goes back.
    this.clock.setNow(now);
    this.board.reset();
    this.board.setApicBase(this.cpu.get64(MSR.apicBase));
    if (this.#bootPlan) {
      initializeChipset(this.ports);
      const images = [
        ...platformTables(this.memory.ramSize, SERIAL_PORTS, PLATFORM_VERSION),
        ...this.#bootPlan.images,
      ];
      for (const { address, bytes, zeros } of images) {
        this.arena.ram.set(bytes, address);
        if (zeros) this.arena.ram.fill(0, address + bytes.length, address + bytes.length + zeros);
      }
      this.#setRegisters(this.#bootPlan.registers);
    }
    this.#selector.current.flush();
  }

  #setRegisters(registers: BootRegisters): void {
    const { cpu } = this;
    for (const [index, value] of Object.entries(registers.gpr)) {
      if (value !== undefined) cpu.setGpr(Number(index), value);
    }
    cpu.rip = registers.rip;
    cpu.rflags = registers.rflags;
    registers.segments.forEach((segment, index) => cpu.setSegment(index, segment));
    cpu.setTable('gdt', registers.gdt.base, registers.gdt.limit);
    cpu.setTable('idt', registers.idt.base, registers.idt.limit);
    cpu.setCr3(registers.cr3);
    cpu.setCr4(registers.cr4);
    cpu.efer = registers.efer;
    cpu.setCr0(registers.cr0);
    cpu.stateReplaced();
  }

  /** From a device the guest just wrote to. The first request of a run counts. */
  #ask(request: MachineEnd): void {
    this.#request ??= request;
    this.#selector.current.requestExit();
  }

  /** False when the machine has ended. */
  #carryOutRequest(): boolean {
    const request = this.#request;
    if (!request) return true;
    this.#request = undefined;
    if (request.kind === 'reset') return this.#resetOrEnd('guest');
    this.#end(request);
    return false;
  }

  /** False when the machine has ended. */
  #resetOrEnd(cause: 'guest' | 'tripleFault'): boolean {
    if (this.config.noReboot) {
      this.#end({ kind: cause === 'guest' ? 'reset' : 'tripleFault' });
      return false;
    }
    this.#reboot(cause);
    return this.#state === 'running';
  }

  #reboot(cause: ResetCause): void {
    this.#request = undefined;
    this.#flushOutput();
    this.#boot();
    this.emit('reset', cause);
  }

  #end(end: MachineEnd): void {
    if (this.#state === 'off') return;
    this.#loop.stop();
    this.#flushOutput();
    this.#setState('off');
    this.#engines.dispose();
    this.emit('ended', end);
  }

  #panic(error: unknown): void {
    this.#end({ kind: 'panic', error: error instanceof Error ? error : new Error(String(error)) });
  }

  #setState(state: MachineState): void {
    this.#state = state;
    this.emit('state', state);
  }

  #flushOutput(): void {
    this.#serialOutput.forEach((output, port) => {
      const bytes = output.take();
      if (bytes) this.emit('serial', port, bytes);
    });
    const debug = this.#debugOutput.take();
    if (debug) this.emit('debugConsole', debug);
    for (const [port, output] of this.#logOutput) {
      const bytes = output.take();
      if (bytes) this.emit('logPort', port, bytes);
    }
  }
}
