import { readFileSync } from 'node:fs';
import { cpus, release, totalmem, type } from 'node:os';
import type { EngineInfo, HostInfo } from '../../src-core/protocol/api.ts';

/** What the window tells about this host; `versions` holds the shell's own on top of the common ones. */
export function hostInfo(
  shell: HostInfo['shell'],
  versions: Record<string, string>,
  dataDirectory: string,
  engines: EngineInfo[],
): HostInfo {
  const processors = cpus();
  return {
    shell,
    nativeFileDialog: shell === 'electron',
    versions: { ...versions, node: process.versions.node, v8: process.versions.v8 },
    platform: process.platform,
    osName: osName(),
    cpuModel: processors[0]?.model.trim() ?? 'unknown',
    cpuCount: processors.length,
    memoryBytes: totalmem(),
    dataDirectory,
    engines,
  };
}

function osName(): string {
  if (process.platform === 'linux') {
    const name = osRelease().PRETTY_NAME;
    if (name !== undefined) return name;
  }
  return `${type()} ${release()}`;
}

/** The fields of os-release(5); empty where the system has none. */
export function osRelease(): Partial<Record<string, string>> {
  let text: string;
  try {
    text = readFileSync('/etc/os-release', 'utf8');
  } catch {
    return {};
  }
  const fields: Partial<Record<string, string>> = {};
  for (const [, name, quoted, plain] of text.matchAll(/^(\w+)=(?:"(.*)"|(.*))$/gm)) {
    if (name !== undefined) fields[name] = quoted ?? plain ?? '';
  }
  return fields;
}
