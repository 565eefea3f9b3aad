import {
  CR0,
  CR2,
  CR3,
  CR4,
  CR8,
  CTL,
  DR0,
  EFER,
  FLAGS_AUX,
  FLAGS_RESULT,
  FLAGS_SYSTEM,
  FPU,
  GDTR,
  GPR,
  IDTR,
  MSR,
  RIP,
  SEG,
  SEG_FIELD,
  SEG_SIZE,
  ST,
  TABLE_LIMIT,
  TEMP,
  TEMP_COUNT,
  TEMP_SIZE,
  XCR0,
  XMM,
} from '../../../x86/layout.ts';

const REGISTERS = [
  ...['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'],
  ...['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'],
];
const HIGH_BYTES = ['ah', 'ch', 'dh', 'bh'];
const SEGMENTS = ['es', 'cs', 'ss', 'ds', 'fs', 'gs', 'ldtr', 'tr'];

const names = new Map<number, string>([
  [RIP, 'rip'],
  [FLAGS_RESULT, 'flags.result'],
  [FLAGS_AUX, 'flags.aux'],
  [FLAGS_SYSTEM, 'flags.system'],
  [CR0, 'cr0'],
  [CR2, 'cr2'],
  [CR3, 'cr3'],
  [CR4, 'cr4'],
  [CR8, 'cr8'],
  [EFER, 'efer'],
  [GDTR, 'gdtr.base'],
  [GDTR + TABLE_LIMIT, 'gdtr.limit'],
  [IDTR, 'idtr.base'],
  [IDTR + TABLE_LIMIT, 'idtr.limit'],
  [XCR0, 'xcr0'],
]);
REGISTERS.forEach((name, index) => names.set(GPR + index * 8, name));
HIGH_BYTES.forEach((name, index) => names.set(GPR + index * 8 + 1, name));
for (const index of [0, 1, 2, 3, 6, 7]) names.set(DR0 + index * 8 - (index > 3 ? 16 : 0), `dr${index}`);
SEGMENTS.forEach((segment, index) => {
  for (const [field, offset] of Object.entries(SEG_FIELD)) {
    names.set(SEG + index * SEG_SIZE + offset, `${segment}.${field}`);
  }
});
for (const [prefix, group] of [
  ['ctl', CTL],
  ['msr', MSR],
  ['fpu', FPU],
] as const) {
  for (const [field, offset] of Object.entries(group)) names.set(offset, `${prefix}.${field}`);
}
for (const [prefix, base, count, size] of [
  ['t', TEMP, TEMP_COUNT, TEMP_SIZE],
  ['xmm', XMM, 16, 16],
  // Physical x87 registers: which ST(i) they are depends on TOP.
  ['fpr', ST, 8, 16],
] as const) {
  for (let index = 0; index < count; index++) {
    names.set(base + index * size, `${prefix}${index}`);
    names.set(base + index * size + 8, `${prefix}${index}.high`);
  }
}

/**
 * What stands at an offset in the vCPU's state (x86/layout.ts): "rax", "ah", "ds.base", "xmm1", "t0" (a temporary of
 * the IR), "ctl.budget". Undefined where the layout has no name.
 */
export function stateName(offset: number): string | undefined {
  return names.get(offset);
}
