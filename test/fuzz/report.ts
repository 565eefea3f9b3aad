/**
 * Readable accounts of cases and differences.
 */
import { Code, Formatter, FormatterSyntax } from 'iced-x86';
import { CASE, SELECTOR_DATA, SELECTOR_DATA16 } from '../oracle/layout.ts';
import { FX } from '../oracle/state.ts';
import type { CaseView } from '../oracle/state.ts';
import { decodeCase } from './compare.ts';
import type { Difference } from './compare.ts';

/** The instruction as text, with its bytes. */
export function disassemble(state: CaseView): { code: string; text: string } {
  const instruction = decodeCase(state);
  const formatter = new Formatter(FormatterSyntax.Nasm);
  try {
    const bytes = Buffer.from(state.code).toString('hex');
    const invalid = instruction.code === Code.INVALID;
    return {
      code: Code[instruction.code],
      text: `${bytes}  ${invalid ? '(no instruction)' : formatter.format(instruction)}`,
    };
  } finally {
    formatter.free();
    instruction.free();
  }
}

const NAMES = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'];

/** The parts of the starting state a reader needs: registers, flags, control words, and operands on request. */
export function describeState(state: CaseView, all: boolean): string {
  const { view } = state;
  const lines: string[] = [];
  const digits = state.bitness === 64 ? 16 : 8;
  let line = '';
  for (let index = 0; index < (state.bitness === 64 ? 16 : 8); index++) {
    line += `${(NAMES[index] ?? `r${index}`).padStart(3)}=${state.gpr(index).toString(16).padStart(digits, '0')} `;
    if (index % 4 === 3) {
      lines.push(line);
      line = '';
    }
  }
  const fx = CASE.fxsave;
  const hex16 = (at: number): string => view.getUint16(at, true).toString(16);
  lines.push(
    `rip=${state.rip.toString(16)} rflags=${state.rflags.toString(16)} mxcsr=${view.getUint32(fx + FX.mxcsr, true).toString(16)} ` +
      `fcw=${hex16(fx + FX.fcw)} fsw=${hex16(fx + FX.fsw)} ftw=${view.getUint8(fx + FX.ftw).toString(16)}`,
  );
  if (state.bitness === 64)
    lines.push(
      `fsbase=${view.getBigUint64(CASE.fsBase, true).toString(16)} gsbase=${view.getBigUint64(CASE.gsBase, true).toString(16)}`,
    );
  else {
    if (state.bitness === 32 && state.codeBased) lines.push(`cs=${hex16(CASE.entry + 4)}`);
    const usual = state.bitness === 16 ? SELECTOR_DATA16 : SELECTOR_DATA;
    const odd = (['ss', 'ds', 'es'] as const).filter((name) => view.getUint16(CASE[name], true) !== usual);
    if (odd.length > 0) lines.push(odd.map((name) => `${name}=${hex16(CASE[name])}`).join(' '));
  }
  if (all) {
    const reversed = (at: number, length: number): string =>
      Buffer.from(state.bytes.subarray(at, at + length))
        .reverse()
        .toString('hex');
    for (let index = 0; index < 8; index += 2)
      lines.push(
        `st${index}=${reversed(fx + FX.st + index * 16, 10)} st${index + 1}=${reversed(fx + FX.st + index * 16 + 16, 10)}`,
      );
    for (let index = 0; index < (state.bitness === 64 ? 16 : 8); index += 2)
      lines.push(
        `xmm${index}=${reversed(fx + FX.xmm + index * 16, 16)} xmm${index + 1}=${reversed(fx + FX.xmm + index * 16 + 16, 16)}`,
      );
    for (let index = 0; index < state.patchCount; index++)
      lines.push(
        `data+${state.patchOffset(index).toString(16)}: ${Buffer.from(state.patchBytes(index)).reverse().toString('hex')}`,
      );
  }
  return lines.join('\n      ');
}

/** Differences grouped by instruction code: how often, and the first examples. */
export class Findings {
  /** Most examples kept of one code. */
  private readonly keep: number;
  private readonly groups = new Map<
    string,
    { count: number; fields: Map<string, number>; examples: string[] }
  >();
  private total = 0;

  constructor(keep = 1) {
    this.keep = keep;
  }

  get count(): number {
    return this.total;
  }

  add(number: number, state: CaseView, differences: readonly Difference[]): void {
    this.total++;
    const { code, text } = disassemble(state);
    let group = this.groups.get(code);
    if (group === undefined) {
      group = { count: 0, fields: new Map(), examples: [] };
      this.groups.set(code, group);
    }
    group.count++;
    for (const { field } of differences) group.fields.set(field, (group.fields.get(field) ?? 0) + 1);
    if (group.examples.length >= this.keep) return;
    const vectorState = differences.some(
      ({ part }) => part === 'x87' || part === 'xmm' || part === 'mxcsr' || part === 'memory',
    );
    const lines = differences
      .slice(0, 6)
      .map(({ field, expected, actual }) => `      ${field}: host ${expected}, ours ${actual}`);
    group.examples.push(
      [`    case ${number}: ${text}`, `      ${describeState(state, vectorState)}`, ...lines].join('\n'),
    );
  }

  /** One block per code, most frequent first. */
  report(limit = 200): string {
    const sorted = [...this.groups].sort((a, b) => b[1].count - a[1].count);
    const blocks = sorted.slice(0, limit).map(([code, { count, fields, examples }]) => {
      const parts = [...fields].sort((a, b) => b[1] - a[1]).map(([field, times]) => `${field} ${times}`);
      return [`  ${code}: ${count} (${parts.slice(0, 8).join(', ')})`, ...examples].join('\n');
    });
    if (sorted.length > limit)
      blocks.push(
        `  and ${sorted.length - limit} more: ${sorted
          .slice(limit)
          .map(([code, { count }]) => `${code} ${count}`)
          .join(', ')}`,
      );
    return blocks.join('\n');
  }
}
