import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import {
  type HardwareProbe,
  PROBE_CHECK_LABELS,
  type ProbeCheck,
  type ProbeCheckId,
  type ProbeFailure,
  type ProbeHost,
  type ProbeMessage,
  probeMessageSchema,
  type ProbeSpeed,
} from '../../../protocol/hardware-probe.ts';

/** Time the whole probe may take, ms. */
export const PROBE_TIMEOUT_MS = 20_000;

/** The process that probes (child.ts), whatever started it. */
export interface ProbeProcess {
  readonly output: Readable;
  /** Ends it at once. */
  kill(): void;
  /** Settles when it is gone. */
  readonly ended: Promise<{ code: number | null; signal: string | null }>;
}

export interface ProbeOptions {
  /** Starts the process; by default a child of this Node. */
  launch?: () => ProbeProcess;
  timeoutMs?: number;
  device?: string;
}

/** Finds out what this host's hardware virtualization can do. Does not fail: what goes wrong is in the result. */
export async function probeHardware(options: ProbeOptions = {}): Promise<HardwareProbe> {
  const { launch = () => spawnProbe(options.device), timeoutMs = PROBE_TIMEOUT_MS } = options;
  const collector = new Collector();
  const timeout = AbortSignal.timeout(timeoutMs);
  let end: { code: number | null; signal: string | null };
  try {
    const child = launch();
    const kill = (): void => child.kill();
    timeout.addEventListener('abort', kill);
    try {
      for await (const line of createInterface({ input: child.output })) collector.take(line);
      end = await child.ended;
    } finally {
      timeout.removeEventListener('abort', kill);
    }
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return collector.result({ kind: 'crash', message: `The probe can’t be started: ${message}` });
  }
  if (collector.complete) return collector.result();
  if (timeout.aborted) {
    return collector.result({
      kind: 'timeout',
      message: `The probe was not done after ${timeoutMs / 1000} s.`,
    });
  }
  const how = end.signal ?? `exit code ${end.code ?? 'unknown'}`;
  return collector.result({ kind: 'crash', message: `The process that probes ended early (${how}).` });
}

function spawnProbe(device: string | undefined): ProbeProcess {
  const script = fileURLToPath(new URL('./child.ts', import.meta.url));
  const child = spawn(process.execPath, [script, ...(device === undefined ? [] : [device])], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return {
    output: child.stdout,
    kill: () => void child.kill('SIGKILL'),
    ended: new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code, signal) => resolve({ code, signal }));
    }),
  };
}

/** Puts a result together from the messages, as far as they come. */
class Collector {
  complete = false;
  #host: ProbeHost | null = null;
  #speed: ProbeSpeed | null = null;
  #failure: ProbeFailure | null = null;
  readonly #checks: ProbeCheck[] = [];
  /** The check that was begun last and has no result. */
  #open: ProbeCheckId | undefined;

  take(line: string): void {
    const message = parse(line);
    if (!message) return;
    switch (message.type) {
      case 'host':
        this.#host = message.host;
        break;
      case 'begin':
        this.#open = message.id;
        break;
      case 'check':
        this.#open = undefined;
        this.#checks.push(message.check);
        break;
      case 'speed':
        this.#speed = message.speed;
        break;
      case 'failure':
        this.#failure = message.failure;
        break;
      case 'end':
        this.complete = true;
        break;
    }
  }

  /** @param early what ended the probe before its time */
  result(early?: Pick<ProbeFailure, 'kind' | 'message'>): HardwareProbe {
    const checks = [...this.#checks];
    if (this.#open !== undefined) {
      const detail =
        early?.kind === 'timeout' ? 'KVM did not come back' : 'the process that probes died of it';
      checks.push({ id: this.#open, works: false, detail });
    }
    const working = checks.filter(({ works }) => works).length;
    const all = Object.keys(PROBE_CHECK_LABELS).length;
    const failure = this.#failure ?? (early ? { ...early, hint: null, command: null } : null);
    const lacking = (this.#host?.missingFeatures.length ?? 0) > 0;
    return {
      verdict: working === 0 ? 'unable' : working === all && !lacking && !failure ? 'able' : 'partly',
      failure: failure ?? (working === 0 ? NO_GUEST_RUNS : null),
      host: this.#host,
      checks,
      speed: this.#speed,
    };
  }
}

const NO_GUEST_RUNS: ProbeFailure = {
  kind: 'state',
  message: 'KVM is there, but runs none of the small guests it was tried with.',
  hint: null,
  command: null,
};

/** Undefined for what is no message of the probe's (a library may write to standard output, too). */
function parse(line: string): ProbeMessage | undefined {
  try {
    return probeMessageSchema.safeParse(JSON.parse(line)).data;
  } catch {
    return undefined;
  }
}
