/**
 * A VM's process without a machine: answers the host's requests, echoes serial input, counts an exit per input byte,
 * and does what some inputs say. Its "memory" is one string, which snapshots keep.
 */
import { readFileSync } from 'node:fs';
import { vmProcessRequestSchema, type VmProcessMessage } from '../../src-core/protocol/vm-process.ts';
import { ApiError } from '../../src-core/protocol/messages.ts';
import { ExitAccounting } from '../../src-core/accounting/exits.ts';
import { writeDurably } from '../../src-main/durable-file.ts';
import { FakeEngines } from '../support/fake-engines.ts';
import type { Accelerator, EngineTarget } from '../../src-core/protocol/engine.ts';
import type { HardwareProbe } from '../../src-core/protocol/hardware-probe.ts';

const exits = new ExitAccounting();
const engines = new FakeEngines();
let memory = '';
let paused = false;

function say(message: VmProcessMessage): void {
  process.send?.(message);
}

const guestTime = (): number => Math.round(performance.now() * 1e6);

function print(text: string): void {
  say({ type: 'serial', port: 0, bytes: Buffer.from(text) });
}

interface Params {
  config: { engine: string; accelerator: Accelerator; commandLine: string };
  target: EngineTarget;
  probe: HardwareProbe | null;
  snapshotPath: string | null;
  paused: boolean;
  path: string;
  bytes: Uint8Array;
}

async function act(request: string, params: Params): Promise<unknown> {
  switch (request) {
    case 'start':
      if (params.config.commandLine.includes('unbootable')) {
        throw new ApiError({ code: 'file', message: 'this is no kernel', hint: 'Choose a kernel.' });
      }
      ({ paused } = params);
      if (params.snapshotPath !== null) {
        memory = readFileSync(params.snapshotPath, 'utf8');
        if (memory.startsWith('damaged'))
          throw new ApiError({ code: 'file', message: 'the snapshot is damaged' });
      } else print('booted\r\n');
      return {
        engine: engines.start(params.config, params.probe),
        exits: exits.snapshot(),
        guestNs: guestTime(),
      };
    case 'pause':
    case 'resume':
      paused = request === 'pause';
      return {};
    case 'switchEngine': {
      const report = engines.switch(params.target, params.probe);
      say({ type: 'engine', status: engines.status, exits: exits.snapshot(), guestNs: guestTime() });
      return report;
    }
    case 'powerButton':
      say({ type: 'ended', kind: 'powerOff', message: 'The guest powered off.' });
      setImmediate(() => process.exit(0));
      return {};
    case 'serialInput': {
      const text = Buffer.from(params.bytes).toString('utf8');
      exits.count('portIo', text.length);
      if (text === 'print\n') print(`memory:${memory};${paused ? 'paused' : 'running'}\r\n`);
      else if (text === 'flood\n') for (let i = 0; i < 40; i++) print('0123456789abcdef'.repeat(1024));
      else if (text === 'throw\n')
        setImmediate(() => {
          throw new Error('a fault in the machine');
        });
      else {
        memory += text;
        print(text);
      }
      return {};
    }
    case 'saveSnapshot':
      return { sizeBytes: await writeDurably(params.path, (file) => file.writeFile(memory)) };
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
setInterval(() => {
  say({
    type: 'statistics',
    engine: engines.status.kind,
    counters: {},
    guestNs: guestTime(),
    exits: exits.snapshot(),
    cpuMs: process.cpuUsage().user / 1000,
    residentBytes: process.memoryUsage.rss(),
  });
}, 50);
say({ type: 'ready' });
