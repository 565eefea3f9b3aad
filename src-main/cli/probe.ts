import { parseArgs } from 'node:util';
import { probeHardware } from '../../src-core/engines/hardware/probe/parent.ts';
import { type HardwareProbe, PROBE_CHECK_LABELS } from '../../src-core/protocol/hardware-probe.ts';
import { UsageError } from './arguments.ts';
import { EXIT_CODE } from './run.ts';

export const PROBE_HELP = `Usage: npm run --silent cli -- probe [--json] [--device PATH]

Finds out what this host's hardware virtualization can do by running small guests on it, in a process of its own.

  --json          the result as JSON
  --device PATH   another device than /dev/kvm

Exit codes
  0    something works: the table says what
  2    bad arguments
  4    no guest runs: the reason is given
`;

export interface ProbeArguments {
  json: boolean;
  device: string | undefined;
}

/** `switchyard probe`: no guest runs on this host. */
const EXIT_UNABLE = 4;

/** Parses what follows `probe`. @throws UsageError */
export function parseProbeArguments(args: string[]): ProbeArguments {
  try {
    const { values } = parseArgs({
      args,
      options: { json: { type: 'boolean', default: false }, device: { type: 'string' } },
    });
    return { json: values.json, device: values.device };
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

/** Probes and prints. @returns the exit code. */
export async function probe({ json, device }: ProbeArguments): Promise<number> {
  const result = await probeHardware(device === undefined ? {} : { device });
  process.stdout.write(json ? `${JSON.stringify(result, null, 2)}\n` : describeProbe(result));
  return result.verdict === 'unable' ? EXIT_UNABLE : EXIT_CODE.ok;
}

const VERDICTS: Record<HardwareProbe['verdict'], string> = {
  able: 'Hardware virtualization works: everything tried does.',
  partly: 'Hardware virtualization works in part: guests that need what fails below can’t use it.',
  unable: 'Hardware virtualization cannot be used; virtual machines run in software.',
};

/** The result for people. */
export function describeProbe({ verdict, failure, host, checks, speed }: HardwareProbe): string {
  const lines = [VERDICTS[verdict]];
  if (failure) {
    lines.push('', failure.message);
    if (failure.hint !== null) lines.push(failure.hint);
    if (failure.command !== null) lines.push(`    ${failure.command}`);
  }
  if (host) {
    lines.push(
      '',
      `KVM module        ${host.module ?? 'unknown'}`,
      `Paging            ${host.nestedPaging ? 'nested (EPT or NPT)' : 'shadow page tables'}`,
      `Time-stamp rate   ${host.tscScaling ? 'as the machine’s' : 'the host’s: the processor cannot scale it'}`,
      `Features missing  ${host.missingFeatures.join(' ') || 'none'}`,
    );
  }
  if (speed) {
    lines.push(
      `An exit takes     ${(speed.exitNs / 1000).toFixed(2)} µs`,
      `Instructions      ${(speed.instructionsPerSecond / 1e6).toFixed(1)} million a second`,
    );
  }
  if (checks.length > 0) lines.push('');
  const width = Math.max(...checks.map(({ id }) => PROBE_CHECK_LABELS[id].length));
  for (const { id, works, detail } of checks) {
    lines.push(`${PROBE_CHECK_LABELS[id].padEnd(width)}  ${works ? 'works' : `fails: ${detail}`}`);
  }
  return `${lines.join('\n')}\n`;
}
