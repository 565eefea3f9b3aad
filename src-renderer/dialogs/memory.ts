const MIB_PER_UNIT: Record<string, number> = { k: 1 / 1024, m: 1, g: 1024, t: 1024 * 1024 };

/**
 * An amount of memory as a person types it, in MiB: "256", "256 MiB", "2 GiB", "1.5g", "10 TiB". NaN for anything
 * else. Whether the amount is allowed is not decided here.
 */
export function parseMemory(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?)?\s*$/i.exec(text);
  if (!match) return NaN;
  return Number(match[1]) * (MIB_PER_UNIT[(match[2] ?? 'm').toLowerCase()] ?? NaN);
}
