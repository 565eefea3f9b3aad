/**
 * What the host processor is, as far as the comparison must know.
 */
import { existsSync, readFileSync } from 'node:fs';

const CPUINFO = existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : '';

const vendor = /vendor_id\s*:\s*(\S+)/.exec(CPUINFO)?.[1] ?? 'unknown';

/** AMD and its licensees; their choices differ from Intel's in places. */
export const AMD = vendor === 'AuthenticAMD' || vendor === 'HygonGenuine';

/** Feature flags as Linux names them. */
export const HOST_FLAGS: ReadonlySet<string> = new Set(
  /flags\s*:\s*(.*)/.exec(CPUINFO)?.[1]?.split(' ') ?? [],
);
