/**
 * A VM's process that plays a guest: a short boot log, a shell that knows a few commands, files in a map, and
 * counters that move as a guest's do. The tests of the window run on it, as do the screenshots; the tests of real
 * guests do not.
 */
import { readFileSync } from 'node:fs';
import { ExitAccounting, type ExitReason } from '../../../src-core/accounting/exits.ts';
import { ApiError } from '../../../src-core/protocol/messages.ts';
import { vmProcessRequestSchema, type VmProcessMessage } from '../../../src-core/protocol/vm-process.ts';
import { writeDurably } from '../../../src-main/durable-file.ts';
import { DEMO_INSPECTION, demoRegion } from './demo-translations.ts';
import { FakeEngines } from '../../support/fake-engines.ts';
import type { Accelerator, EngineTarget } from '../../../src-core/protocol/engine.ts';
import type { HardwareProbe } from '../../../src-core/protocol/hardware-probe.ts';

const exits = new ExitAccounting();
const engines = new FakeEngines();
let files: Record<string, string> = {};
let paused = true;
let line = '';
let busyUntil = 0;
const startedAt = performance.now();
let guestNs = 0;

const PROMPT = '~ # ';
const BOOT_LOG = [
  'Linux version 6.1.0-32-686 (gcc-12 (Debian 12.2.0-14) 12.2.0, GNU ld 2.40) #1 SMP Debian 6.1.129-1',
  'Command line: console=ttyS0',
  'x86/fpu: x87 FPU will use FXSAVE',
  'BIOS-provided physical RAM map:',
  'BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable',
  'BIOS-e820: [mem 0x0000000000100000-0x000000000fffffff] usable',
  'NX (Execute Disable) protection: active',
  'DMI: Switchyard, BIOS built in',
  'tsc: Fast TSC calibration using PIT',
  'Zone ranges: Normal 0x1000-0xfffffff',
  'Kernel command line: console=ttyS0',
  'Memory: 238012K/261752K available (11932K kernel code, 1218K rwdata, 3672K rodata)',
  'rcu: Preemptible hierarchical RCU implementation.',
  'Console: colour dummy device 80x25',
  'printk: console [ttyS0] enabled',
  'Calibrating delay loop (skipped), value calculated using timer frequency.. 4999.99 BogoMIPS',
  'CPU: Switchyard virtual CPU (family: 0x6, model: 0xf, stepping: 0x1)',
  'ACPI: Core revision 20220331',
  'PCI: Using configuration type 1 for base access',
  'clocksource: Switched to clocksource tsc',
  'Serial: 8250/16550 driver, 4 ports, IRQ sharing enabled',
  'serial8250: ttyS0 at I/O 0x3f8 (irq = 4, base_baud = 115200) is a 16550A',
  'rtc_cmos rtc_cmos: registered as rtc0',
  'Freeing unused kernel image (initmem) memory: 1180K',
  'Run /init as init process',
];

/** Mean ns and usual rate while the guest works, of the reasons a Linux guest causes. */
const LOAD: Partial<Record<ExitReason, [perSecond: number, ns: number, details?: Record<string, number>]>> = {
  portIo: [
    8200,
    900,
    {
      '0x3f8': 60,
      '0x3fd': 24,
      '0x20': 6,
      '0x21': 3,
      '0x40': 4,
      '0x43': 2,
      '0xcf8': 0.6,
      '0xcfc': 0.6,
      '0x70': 0.2,
      '0x71': 0.2,
    },
  ],
  mmio: [310, 1400, { 'Local APIC': 88, 'I/O APIC': 12 }],
  controlRegister: [1240, 700],
  msr: [96, 420],
  cpuid: [3, 800],
  hlt: [96, 2100],
  invlpg: [420, 510],
  truePageFault: [2100, 1900],
  interrupt: [260, 1500],
  systemCall: [5200, 380],
  farTransfer: [5400, 360],
  stringOperation: [900, 2600],
  rdtsc: [480, 140],
  selfModifyingCode: [2, 8200],
  tlbFill: [41000, 110],
  translation: [22, 52000],
  slice: [480, 1200],
};

function say(message: VmProcessMessage, sent?: () => void): void {
  process.send?.(message, undefined, undefined, sent);
}

const guestTime = (): number => guestNs;

function print(text: string, port: 0 | 1 = 0): void {
  say({ type: 'serial', port, bytes: Buffer.from(text.replace(/\r?\n/g, '\r\n')) });
}

function boot(): void {
  let seconds = 0;
  for (const text of BOOT_LOG) {
    print(`[    ${seconds.toFixed(6)}] ${text}\n`);
    seconds += 0.013 + text.length * 0.0004;
  }
  print(`\nSwitchyard guest. Type \x1b[1mpoweroff\x1b[0m to end it.\n\n${PROMPT}`);
  print('Second port.\n', 1);
}

function run(command: string): void {
  const [name = '', ...words] = command.trim().split(/\s+/);
  const redirect = /^echo (.*) > (\S+)$/.exec(command.trim());
  busyUntil = performance.now() + 1500;
  if (redirect?.[2]) files[redirect[2]] = redirect[1] ?? '';
  else if (name === 'uname') print('Linux switchyard 6.1.0-32-686 #1 SMP Debian 6.1.129-1 i686 GNU/Linux\n');
  else if (name === 'echo') print(`${words.join(' ')}\n`);
  else if (name === 'ls')
    print(
      '\x1b[1;34mbin\x1b[0m  \x1b[1;34mdev\x1b[0m  \x1b[1;34metc\x1b[0m  \x1b[1;32minit\x1b[0m  ' +
        Object.keys(files).join('  ') +
        '\n',
    );
  else if (name === 'cat') {
    const content = files[words[0] ?? ''];
    print(
      content === undefined ? `cat: can't open '${words[0]}': No such file or directory\n` : `${content}\n`,
    );
  } else if (name === 'flood') for (let i = 0; i < 20_000; i++) print(`flood line ${i}\n`);
  else if (name === 'busy') busyUntil = performance.now() + 60_000;
  else if (name === 'poweroff') {
    say({ type: 'ended', kind: 'powerOff', message: 'The guest powered off.' }, () => process.exit(0));
  } else if (name === 'crash') {
    setImmediate(() => {
      throw new Error('assertion failed: the interrupt window was open');
    });
  } else if (name !== '') print(`sh: ${name}: not found\n`);
  print(PROMPT);
}

function type(text: string): void {
  for (const character of text) {
    if (character === '\r' || character === '\n') {
      print('\n');
      run(line);
      line = '';
    } else if (character === '\x15') {
      print('\b \b'.repeat(line.length));
      line = '';
    } else if (character === '\x7f') {
      if (line !== '') print('\b \b');
      line = line.slice(0, -1);
    } else {
      line += character;
      print(character);
    }
  }
}

async function save(path: string): Promise<number> {
  for (let step = 0; step <= 4; step++) {
    say({ type: 'progress', task: 'snapshot', fraction: step / 4, text: 'Writing memory' });
    await new Promise((resolve) => setTimeout(resolve, 60));
  }
  const filler = Buffer.alloc(24 * 1024 * 1024, 7);
  const state = Buffer.from(JSON.stringify({ files }));
  const size = Buffer.alloc(4);
  size.writeUInt32LE(state.length);
  return writeDurably(path, (file) => file.writeFile(Buffer.concat([size, state, filler])));
}

function load(path: string): void {
  const data = readFileSync(path);
  ({ files } = JSON.parse(data.subarray(4, 4 + data.readUInt32LE(0)).toString()) as { files: typeof files });
}

interface Params {
  config: { engine: string; accelerator: Accelerator; commandLine: string };
  target: EngineTarget;
  probe: HardwareProbe | null;
  snapshotPath: string | null;
  paused: boolean;
  path: string;
  region: number;
  port: 0 | 1;
  bytes: Uint8Array;
}

async function act(request: string, params: Params): Promise<unknown> {
  switch (request) {
    case 'start':
      if (params.config.commandLine.includes('unbootable'))
        throw new ApiError({
          code: 'file',
          message: 'The kernel is damaged.',
          hint: 'Choose another kernel.',
        });
      ({ paused } = params);
      if (params.snapshotPath === null) boot();
      else load(params.snapshotPath);
      busyUntil = performance.now() + 5000;
      return {
        engine: engines.start(params.config, params.probe),
        exits: exits.snapshot(),
        guestNs: guestTime(),
      };
    case 'pause':
    case 'resume':
      paused = request === 'pause';
      return {};
    case 'reset':
      files = {};
      boot();
      return {};
    case 'switchEngine': {
      const report = engines.switch(params.target, params.probe);
      say({ type: 'engine', status: engines.status, exits: exits.snapshot(), guestNs: guestTime() });
      return report;
    }
    case 'powerButton':
      run('poweroff');
      return {};
    case 'serialInput':
      if (params.port === 0) type(Buffer.from(params.bytes).toString());
      return {};
    case 'saveSnapshot':
      return { sizeBytes: await save(params.path) };
    case 'inspect':
      return DEMO_INSPECTION;
    case 'inspectRegion':
      return demoRegion(params.region);
    default:
      return {};
  }
}

process.on('message', (message) => {
  const { id, request, params } = vmProcessRequestSchema.parse(message);
  act(request, params as Params).then(
    (result) => say({ type: 'reply', id, result }),
    (error: unknown) => say({ type: 'failure', id, error: ApiError.from(error).toData() }),
  );
});
process.on('disconnect', () => process.exit(0));

const TICK_MS = 500;
function tick(): void {
  if (paused) return;
  const seconds = TICK_MS / 1000;
  const wave = 0.75 + 0.25 * Math.sin((performance.now() - startedAt) / 4000);
  const load = performance.now() < busyUntil ? wave : 0.02;
  let exitNs = 0;
  for (const [reason, [perSecond, ns, details]] of Object.entries(LOAD) as [
    ExitReason,
    [number, number, Record<string, number>?],
  ][]) {
    const count = Math.round(
      perSecond *
        (reason === 'hlt' || reason === 'interrupt' ? 1 : load) *
        seconds *
        (0.85 + 0.3 * Math.random()),
    );
    exits.count(reason, count);
    exitNs += count * ns;
    for (let sample = 0; sample < Math.min(count, 40); sample++)
      exits.addTime(reason, ns * (0.5 + Math.random() ** 3 * 3));
    for (const [key, share] of Object.entries(details ?? {}))
      for (let n = 0; n < (count * share) / 100; n++) exits.detail(reason, key);
  }
  const busyNs = load * TICK_MS * 1e6;
  exits.spend('exits', Math.min(exitNs, busyNs * 0.4));
  exits.spend('translation', busyNs * 0.06);
  exits.spend('devices', busyNs * 0.04);
  exits.spend('guest', busyNs * 0.5);
  exits.spend('idle', TICK_MS * 1e6 - busyNs);
  exits.instructions += Math.round(62e6 * load * seconds);
  guestNs += TICK_MS * 1e6;
}

setInterval(() => {
  tick();
  say({
    type: 'statistics',
    engine: engines.status.kind,
    counters: { kvm: { exits: 52_000, halt_exits: 340, 'vm.mmu_shadow_zapped': 0 } },
    guestNs,
    exits: exits.snapshot(),
    cpuMs: (performance.now() - startedAt) * 0.7,
    residentBytes: process.memoryUsage.rss(),
  });
}, TICK_MS);
say({ type: 'ready' });
