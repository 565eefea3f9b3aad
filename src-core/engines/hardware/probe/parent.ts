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
  /** Comes when it is gone, or could not be started. Does not reject. */
  readonly ended: Promise<ProbeEnd>;
}

export interface ProbeEnd {
  readonly code: number | null;
  readonly signal: string | null;
  /** Why it could not be started. */
  readonly error?: string;
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
  try {
    const child = launch();
    // A process that is stuck in the kernel may not even die: it is not waited for.
    const timer = setTimeout(() => {
      child.kill();
      child.output.destroy(new ProbeTimeoutError());
    }, timeoutMs);
    try {
      for await (const line of createInterface({ input: child.output })) {
        collector.take(line);
        if (collector.complete) break;
      }
    } finally {
      clearTimeout(timer);
    }
    if (collector.complete) {
      // Not every kind of process goes by itself.
      child.kill();
      return collector.result();
    }
    const { code, signal, error } = await child.ended;
    if (error !== undefined) return collector.result(unstartable(error));
    const how = signal ?? `exit code ${code ?? 'unknown'}`;
    return collector.result({ kind: 'crash', message: `The process that probes ended early (${how}).` });
  } catch (error) {
    if (error instanceof ProbeTimeoutError) {
      const message = `The probe was not done after ${timeoutMs / 1000} s.`;
      return collector.result({ kind: 'timeout', message });
    }
    return collector.result(unstartable(error instanceof Error ? error.message : String(error)));
  }
}

function unstartable(reason: string): Pick<ProbeFailure, 'kind' | 'message'> {
  return { kind: 'crash', message: `The probe can’t be started: ${reason}` };
}

class ProbeTimeoutError extends Error {}

function spawnProbe(device: string | undefined): ProbeProcess {
  const script = fileURLToPath(new URL('./child.ts', import.meta.url));
  const child = spawn(process.execPath, [script, ...(device === undefined ? [] : [device])], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return {
    output: child.stdout,
    kill: () => void child.kill('SIGKILL'),
    ended: new Promise((resolve) => {
      child.on('error', ({ message }) => resolve({ code: null, signal: null, error: message }));
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
    const lacking = !this.#host || this.#host.missingFeatures.length > 0 || !this.#host.tscScaling;
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
