/** Numbers for people: fixed significant digits, so that columns stay aligned while the values move. */

const groupedFormat = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

/** 1234567 -> "1,234,567". */
export function grouped(value: number): string {
  return groupedFormat.format(value);
}

function scaled(value: number, base: number, units: readonly string[], whole = true): [string, string] {
  let unit = 0;
  let scaledValue = value;
  while (Math.abs(scaledValue) >= base && unit < units.length - 1) {
    scaledValue /= base;
    unit++;
  }
  const absolute = Math.abs(scaledValue);
  const exact = whole && unit === 0 && Number.isInteger(scaledValue);
  const digits = exact || absolute >= 99.95 ? 0 : absolute >= 9.995 ? 1 : 2;
  return [scaledValue.toFixed(digits), units[unit] ?? ''];
}

/** Three significant digits with an SI suffix: 1234567 -> "1.23 M". */
export function si(value: number): string {
  const [number, unit] = scaled(value, 1000, ['', 'k', 'M', 'G', 'T']);
  return unit ? `${number} ${unit}` : number;
}

/** A rate per second, always with three digits so that it does not jump; true zero as a dash. */
export function rate(perSecond: number): string {
  if (perSecond === 0) return '–';
  const [number, unit] = scaled(perSecond, 1000, ['', 'k', 'M', 'G', 'T'], false);
  return unit ? `${number} ${unit}` : number;
}

/** Bytes with binary units: 1536 -> "1.50 KiB". */
export function bytes(value: number): string {
  const [number, unit] = scaled(value, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB']);
  return `${number} ${unit}`;
}

/** Memory given in MiB: whole GiB as such. */
export function mebibytes(value: number): string {
  return value >= 1024 && value % 1024 === 0 ? `${value / 1024} GiB` : `${value} MiB`;
}

/** A duration in ns with three significant digits: 1530 -> "1.53 µs". */
export function nanoseconds(value: number): string {
  if (value >= 60e9) return duration(value / 1e9);
  const [number, unit] = scaled(value, 1000, ['ns', 'µs', 'ms', 's']);
  return `${number} ${unit}`;
}

/** Seconds as a clock: 3723 -> "1:02:03". */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const pad = (part: number): string => String(part).padStart(2, '0');
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours > 0 ? `${hours}:${pad(minutes)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`;
}

export function percent(fraction: number): string {
  const value = fraction * 100;
  return `${value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1)} %`;
}

/** The date and time in the reader's own form, seconds included: snapshots are often minutes apart. */
export function dateTime(epochMs: number): string {
  return new Date(epochMs).toLocaleString(undefined, {
    year: 'numeric',
    month: 'short',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
  });
}

/** A message as a sentence: a capital first, a full stop last. */
export function sentence(text: string): string {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…:]$/.test(capital) ? capital : `${capital}.`;
}
