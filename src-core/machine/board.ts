import { AcpiPm } from '../devices/acpi-pm.ts';
import { Apm, HostBridge, IsaBridge, PowerManagementFunction } from '../devices/chipset.ts';
import { I8042 } from '../devices/i8042.ts';
import { IO_APIC_BASE, IoApic } from '../devices/io-apic.ts';
import { LocalApic } from '../devices/local-apic.ts';
import { PciBus } from '../devices/pci.ts';
import { Pic } from '../devices/pic.ts';
import { Pit } from '../devices/pit.ts';
import { A20Gate, Port92 } from '../devices/port92.ts';
import { PostCode } from '../devices/post-code.ts';
import { Rtc } from '../devices/rtc.ts';
import { Uart } from '../devices/uart.ts';
import type { Device, IrqLine, MemoryBus, PortBus } from './bus.ts';
import type { GuestClock } from './clock.ts';

const PAGE = 4096;
/** IA32_APIC_BASE: global enable, and the address bits. */
const APIC_ENABLE = 0x800n;
const APIC_ADDRESS = 0xf_ffff_ffff_f000n;
const FPU_IRQ = 13;

/** The serial ports every machine has: COM1 and COM2. */
export const SERIAL_PORTS = [
  { base: 0x3f8, irq: 4 },
  { base: 0x2f8, irq: 3 },
] as const;

export interface BoardParts {
  clock: GuestClock;
  ports: PortBus;
  memory: MemoryBus;
  /** Wall clock at guest time 0, see Rtc. */
  epochMs: () => number;
  /** An interrupt waits for the processor. */
  onInterrupt: () => void;
  /** A non-maskable interrupt (by inter-processor interrupt; nothing else on this board raises one). */
  onNmi: () => void;
  /** The guest pulled the processor's reset line. */
  onReset: () => void;
  onPowerOff: () => void;
  setA20: (enabled: boolean) => void;
  /** Guest ns at which the TSC reaches a value. */
  tscToNs: (tsc: bigint) => number;
  onTscDeadlineDone: () => void;
  /** A byte leaves serial port 0 or 1. */
  onSerialByte: (port: number, byte: number) => void;
}

/** Every device of the machine, wired to the buses and to each other. */
export class Board {
  /** In the order in which they are reset and restored: interrupt controllers before what pulls their lines. */
  readonly devices: readonly Device[];
  readonly localApic: LocalApic;
  readonly acpi: AcpiPm;
  readonly rtc: Rtc;
  readonly uarts: readonly Uart[];
  readonly postCode: PostCode;
  readonly #memory: MemoryBus;
  readonly #pic: Pic;
  readonly #ioApic: IoApic;
  readonly #fpuLine: IrqLine;
  #apicAddress: number | undefined;

  constructor(parts: BoardParts) {
    const { clock, ports, memory } = parts;
    this.#memory = memory;
    this.#pic = new Pic((asserted) => this.localApic.setLint0(asserted));
    this.localApic = new LocalApic({
      clock,
      acknowledgePic: () => this.#pic.acknowledge(),
      onInterrupt: parts.onInterrupt,
      onNmi: parts.onNmi,
      onEoi: (vector) => this.#ioApic.endOfInterrupt(vector),
      tscToNs: parts.tscToNs,
      onTscDeadlineDone: parts.onTscDeadlineDone,
    });
    this.#ioApic = new IoApic((message) => this.localApic.deliver(message));
    memory.mapMmio(IO_APIC_BASE, PAGE, this.#ioApic.name, this.#ioApic);
    this.#fpuLine = this.#isaLine(FPU_IRQ);

    const a20 = new A20Gate(parts.setA20);
    const pit = new Pit(clock, this.#isaLine(0));
    const memoryBytes = memory.ramSize;
    this.rtc = new Rtc({ clock, irq: this.#isaLine(8), memoryBytes, epochMs: parts.epochMs });
    this.uarts = SERIAL_PORTS.map(
      ({ base, irq }, index) =>
        new Uart({
          name: `uart${index}`,
          base,
          clock,
          irq: this.#isaLine(irq),
          transmit: (byte) => parts.onSerialByte(index, byte),
        }),
    );
    const i8042 = new I8042(this.#isaLine(1), a20, parts.onReset);
    const port92 = new Port92(a20, parts.onReset);
    this.acpi = new AcpiPm({ clock, ports, sci: this.#isaLine(9), onPowerOff: parts.onPowerOff });
    const pci = new PciBus(parts.onReset);
    pci.add(0, 0, new HostBridge(memory));
    pci.add(1, 0, new IsaBridge());
    pci.add(1, 3, new PowerManagementFunction(this.acpi));
    const apm = new Apm(this.acpi);
    this.postCode = new PostCode();
    for (const device of [this.#pic, pit, this.rtc, ...this.uarts, i8042, port92, pci, apm, this.postCode]) {
      device.attach(ports);
    }
    this.devices = [
      this.localApic,
      this.#ioApic,
      this.#pic,
      pit,
      this.rtc,
      ...this.uarts,
      i8042,
      port92,
      this.acpi,
      pci,
      apm,
      this.postCode,
    ];
  }

  /** An ISA interrupt reaches both controllers; IRQ0 is on pin 2 of the I/O APIC, as the MADT says. */
  #isaLine(irq: number): IrqLine {
    const pic = this.#pic.line(irq);
    const ioApic = this.#ioApic.line(irq === 0 ? 2 : irq);
    return {
      set: (level) => {
        pic.set(level);
        ioApic.set(level);
      },
    };
  }

  /** The processor's FERR# output. */
  setFpuError(asserted: boolean): void {
    this.#fpuLine.set(asserted);
  }

  /** IA32_APIC_BASE was written: the local APIC is enabled or not, and its registers move. */
  setApicBase(value: bigint): void {
    const enabled = (value & APIC_ENABLE) !== 0n;
    const address = enabled ? Number(value & APIC_ADDRESS) : undefined;
    if (address !== this.#apicAddress) {
      if (this.#apicAddress !== undefined) this.#memory.unmapMmio(this.#apicAddress);
      if (address !== undefined) this.#memory.mapMmio(address, PAGE, this.localApic.name, this.localApic);
      this.#apicAddress = address;
    }
    this.localApic.setEnabled(enabled);
  }

  reset(): void {
    for (const device of this.devices) device.reset();
  }
}
