import { existsSync, readFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';

/** When and where, in one sentence. */
export function describeMachine(): string {
  const processors = cpus();
  const model = processors[0]?.model.trim() ?? 'unknown processor';
  const system = existsSync('/etc/os-release')
    ? /^PRETTY_NAME="(.*)"$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1]
    : undefined;
  const day = new Date().toISOString().slice(0, 10);
  const memory = Math.round(totalmem() / (1 << 30));
  return (
    `${day}, ${processors.length} x ${model}, ${memory} GiB, ${system ?? process.platform}, ` +
    `Node ${process.versions.node}.`
  );
}
