/**
 * Straight-line instructions as templates. Placeholders, filled by {@link Operands}:
 *
 * `#` the operand size of the whole line (8, 16, 32 or 64 where the mode has it), `{r#}` a register, `{m#}` a memory
 * operand, `{rm#}` either, `{i#}` an immediate, `{n5}` a small count below 32; sizes may be fixed: `{r32}`, `{m80}`.
 * `{cc}` a condition, `{x}` and `{xm}` an XMM register, or it or memory, `{mm}` an MMX register, `{st}` an x87
 * register. Several instructions of a template stay together.
 */

export interface Template {
  readonly text: string;
  /** Operand sizes `#` stands for. */
  readonly sizes: readonly number[];
  /** Only in 16- and 32-bit, or only in 64-bit code. */
  readonly only?: 'legacy' | 'long';
}

const ALL = [8, 16, 32, 64];
const WIDE = [16, 32, 64];

function expand(sizes: readonly number[], lines: string, only?: 'legacy' | 'long'): Template[] {
  return lines
    .trim()
    .split('\n')
    .map((line) => ({
      text: line.trim().replaceAll(' / ', '\n'),
      sizes,
      ...(only !== undefined && { only }),
    }));
}

function each(names: string, sizes: readonly number[], pattern: string): Template[] {
  return names.split(' ').flatMap((name) => expand(sizes, pattern.replaceAll('$', name)));
}

/** Arithmetic that makes flags. */
export const PRODUCERS: readonly Template[] = [
  ...each(
    'add or adc sbb and sub xor cmp',
    ALL,
    '$ {r#}, {rm#}\n$ {rm#}, {r#}\n$ {rm#}, {i#}\n$ {rm#}, {i8}',
  ),
  ...expand(ALL, 'test {rm#}, {r#}\ntest {rm#}, {i#}\nxadd {rm#}, {r#}\ncmpxchg {rm#}, {r#}'),
  ...each('inc dec neg', ALL, '$ {rm#}\n$ {r#}'),
  ...each('shl shr sar rol ror rcl rcr', ALL, '$ {rm#}, {n5}\n$ {rm#}, cl\n$ {rm#}, 1'),
  ...each('shld shrd', WIDE, '$ {rm#}, {r#}, {n5}\n$ {rm#}, {r#}, cl'),
  ...each('mul imul', ALL, '$ {rm#}'),
  ...expand(WIDE, 'imul {r#}, {rm#}\nimul {r#}, {rm#}, {i#}\nimul {r#}, {rm#}, {i8}'),
  ...each('bt bts btr btc', WIDE, '$ {rm#}, {n5}\n$ {r#}, {r#}'),
  ...each('bsf bsr popcnt', WIDE, '$ {r#}, {rm#}'),
  ...each('ucomiss comiss ucomisd comisd ptest', [32], '$ {x}, {x}'),
  ...expand([32], 'fcomi st0, {st}\nfucomi st0, {st}\nsahf\nclc\nstc\ncmc'),
  ...expand([32], 'daa\ndas\naaa\naas\naam {i8}\naad 10\naam 10', 'legacy'),
];

/** What reads flags, other than branches. */
export const CONSUMERS: readonly Template[] = [
  ...expand([8], 'set{cc} {rm8}'),
  ...expand(WIDE, 'cmov{cc} {r#}, {rm#}'),
  ...each('adc sbb', ALL, '$ {r#}, {r#}'),
  ...each('rcl rcr', ALL, '$ {r#}, {n5}'),
  ...expand([32], 'lahf\ncmc\npushf / pop {rp}'),
  ...expand([32], 'daa\ndas\naaa\naas\ninto', 'legacy'),
  ...each('fcmovb fcmove fcmovbe fcmovu fcmovnb fcmovne fcmovnbe fcmovnu', [32], '$ st0, {st}'),
];

/** Moves and everything else of the integer unit. */
export const MOVES: readonly Template[] = [
  ...expand(
    ALL,
    'mov {r#}, {rm#}\nmov {rm#}, {r#}\nmov {rm#}, {i#}\nmov {r#}, {i#}\nxchg {r#}, {rm#}\nnot {rm#}',
  ),
  ...each('movzx movsx', WIDE, '$ {r#}, {rm8}'),
  ...each('movzx movsx', [32, 64], '$ {r#}, {rm16}'),
  ...expand(WIDE, 'lea {r#}, {m#}'),
  ...expand([32, 64], 'bswap {r#}'),
  ...expand([32], 'cbw\ncwde\ncwd\ncdq\ncld\nnop\nxlatb'),
  ...expand([64], 'cdqe\ncqo\nmovsxd {r64}, {rm32}', 'long'),
  ...expand([32], 'push {rp} / pop {rp}\npush {i8} / pop {rp}\npush {rp} / push {rp} / pop {rp} / pop {rp}'),
  ...expand([32], 'pushf / popf\npush {mp} / pop {mp}\nenter 16, 0 / leave\nenter 24, 1 / leave'),
  ...expand([32], 'pusha / popa', 'legacy'),
  ...expand([32], 'cmpxchg8b {m64}\nlock cmpxchg8b {m64}'),
  ...each('add or adc sbb and sub xor', ALL, 'lock $ {m#}, {r#}'),
  ...each('inc dec neg not', ALL, 'lock $ {m#}'),
  ...expand(ALL, 'lock xadd {m#}, {r#}\nlock cmpxchg {m#}, {r#}\nxchg {m#}, {r#}'),
  ...expand([32], 'cpuid\nrdtsc\npause\nmfence\nin al, 0xe0\nin eax, 0xe0\nin ax, 0xe4'),
  ...expand(
    [16, 32, 64],
    'movnti {m32}, {r32}\nsldt {r32}\nsmsw {r32}\nverr {r16}\nverw {r16}\nlar {r#}, {r#}\nlsl {r#}, {r#}',
  ),
];

/** String instructions; the preparation of RSI, RDI and RCX is the generator's. */
export const STRINGS: readonly Template[] = [
  ...each('movs stos lods', ALL, '$%'),
  ...each('movs stos lods', ALL, 'rep $%'),
  ...each('scas cmps', ALL, '$%\nrepe $%\nrepne $%'),
];

const FLOAT_MEMORY = 'fadd fmul fsub fsubr fdiv fdivr fcom fcomp';
/** x87. */
export const X87: readonly Template[] = [
  ...each(FLOAT_MEMORY, [32], '$ {m32}\n$ {m64}'),
  ...each('fadd fmul fsub fsubr fdiv fdivr', [32], '$ st0, {st}\n$ {st}, st0'),
  ...each('faddp fmulp fsubp fsubrp fdivp fdivrp', [32], '$ {st}, st0'),
  ...each('fiadd fimul fisub fidivr ficom', [32], '$ {m16}\n$ {m32}'),
  ...expand(
    [32],
    'fld {m32}\nfld {m64}\nfld {m80}\nfld {st}\nfild {m16}\nfild {m32}\nfild {m64}\nfbld {m80}',
  ),
  ...expand(
    [32],
    'fst {m32}\nfst {m64}\nfst {st}\nfstp {m32}\nfstp {m64}\nfstp {m80}\nfstp {st}\nfbstp {m80}',
  ),
  ...expand(
    [32],
    'fist {m16}\nfist {m32}\nfistp {m16}\nfistp {m32}\nfistp {m64}\nfisttp {m32}\nfisttp {m64}',
  ),
  ...expand([32], 'fld1\nfldz\nfldpi\nfchs\nfabs\nfsqrt\nfrndint\nfscale\nfxtract\nfprem\nftst\nfxam\nf2xm1'),
  ...expand(
    [32],
    'fxch st0, {st}\nfucom st0, {st}\nfucomp st0, {st}\nfucompp\nfcompp\nfcomip st0, {st}\nfucomip st0, {st}',
  ),
  ...expand(
    [32],
    'fnstsw ax / sahf\nfnstsw {m16}\nfnstcw {m16}\nfninit\nfnclex\nffree {st}\nfincstp\nfdecstp\nwait',
  ),
  ...expand([32], 'fldcw {m16}\nmov word {cw}, 0x27f / fldcw {cw}\nmov word {cw}, 0xc7f / fldcw {cw}'),
  ...expand([32], 'mov word {cw}, 0x37f / fldcw {cw}\nfnstenv {m224} / fldenv {m224}'),
];

const PACKED =
  'addps addpd subps subpd mulps mulpd divps divpd minps minpd maxps maxpd sqrtps sqrtpd andps andnpd orps xorps ' +
  'unpcklps unpckhpd addsubps haddps hsubpd movsldup movshdup cvtdq2ps cvtps2dq cvttps2dq cvtpd2ps cvttpd2dq ' +
  'paddb paddw paddd paddq psubb psubw psubd psubq paddsb paddusw psubsw psubusb pmullw pmulhw pmulhuw pmuludq ' +
  'pmaddwd pand pandn por pxor pcmpeqb pcmpeqw pcmpeqd pcmpgtb pcmpgtw pcmpgtd punpcklbw punpckhwd punpckldq ' +
  'punpcklqdq punpckhqdq packsswb packssdw packuswb pmaxub pminub pmaxsw pminsw pavgb pavgw psadbw psllw pslld psllq ' +
  'psrlw psrld psrlq psraw psrad pshufb phaddw phaddd pabsb pabsd psignw pmulhrsw pmaddubsw pmulld pminsd pmaxud ' +
  'pcmpeqq pcmpgtq packusdw pmuldq ptest';
const SCALAR_SINGLE = 'addss subss mulss divss minss maxss sqrtss ucomiss comiss cvtss2sd';
const SCALAR_DOUBLE = 'addsd subsd mulsd divsd minsd maxsd sqrtsd ucomisd comisd cvtsd2ss';
/** MMX and SSE. */
export const VECTOR: readonly Template[] = [
  ...each(PACKED, [32], '$ {x}, {x}\n$ {x}, {a128}'),
  ...each('blendvps pblendvb cvtdq2pd pmovzxbw pmovsxwd', [32], '$ {x}, {x}'),
  ...each(SCALAR_SINGLE, [32], '$ {x}, {x}\n$ {x}, {m32}'),
  ...each(SCALAR_DOUBLE, [32], '$ {x}, {x}\n$ {x}, {m64}'),
  ...each('cvtsi2ss cvtsi2sd', [32, 64], '$ {x}, {rm#}'),
  ...each('cvtss2si cvttss2si', [32, 64], '$ {r#}, {x}\n$ {r#}, {m32}'),
  ...each('cvtsd2si cvttsd2si', [32, 64], '$ {r#}, {x}\n$ {r#}, {m64}'),
  ...each('movups movupd movdqu', [32], '$ {x}, {m128}\n$ {m128}, {x}'),
  ...each(
    'movaps movapd movdqa',
    [32],
    '$ {x}, {x}\n$ {x}, {a128}\n$ {a128}, {x}\n$ {x}, {m128}\n$ {m128}, {x}',
  ),
  ...each('movlps movhps movlpd movhpd movq', [32], '$ {x}, {m64}\n$ {m64}, {x}'),
  ...expand(
    [32],
    'movss {x}, {m32}\nmovss {m32}, {x}\nmovss {x}, {x}\nmovq {x}, {x}\nmovhlps {x}, {x}\nlddqu {x}, {m128}',
  ),
  ...expand([32], 'movd {x}, {rm32}\nmovd {rm32}, {x}\nmovntdq {a128}, {x}\nmovntps {a128}, {x}'),
  ...each(
    'shufps shufpd pshufd pshuflw pshufhw palignr blendps pblendw roundps roundsd roundss dpps',
    [32],
    '$ {x}, {x}, {i8}',
  ),
  // By their codes' names: CMPSD is a string instruction, too.
  ...each('cmpps_xmm_xmmm128_imm8 cmppd_xmm_xmmm128_imm8', [32], '$ {x}, {x}, {n3}\n$ {x}, {a128}, {n3}'),
  ...each('cmpss_xmm_xmmm32_imm8 cmpsd_xmm_xmmm64_imm8', [32], '$ {x}, {x}, {n3}'),
  ...each('psllw psrld psraw psrlq pslldq psrldq', [32], '$ {x}, {n5}'),
  ...each('movmskps movmskpd pmovmskb', [32], '$ {r32}, {x}'),
  ...expand(
    [32],
    'pinsrw {x}, {r32}, {n3}\npextrw {r32}, {x}, {n3}\npextrd {rm32}, {x}, {n3}\npinsrb {x}, {r32}, {n3}',
  ),
  ...each(
    'paddb paddw psubd pmullw pand por pxor pcmpeqb packsswb punpckhbw psllw pmaddwd',
    [32],
    '$ {mm}, {mm}\n$ {mm}, {m64}',
  ),
  ...expand(
    [32],
    'movd {mm}, {r32}\nmovd {r32}, {mm}\nmovq {mm}, {m64}\nmovq {m64}, {mm}\nmovdq2q {mm}, {x}\nmovq2dq {x}, {mm}\nemms',
  ),
  ...expand(
    [32],
    'stmxcsr {m32}\nstmxcsr {cw} / ldmxcsr {cw}\nmov dword {cw}, 0x7fa0 / ldmxcsr {cw}\nmov dword {cw}, 0x1f80 / ldmxcsr {cw}',
  ),
  ...expand(
    [32],
    'fxsave {f512} / fxrstor {f512}\nfxsave {f512} / fninit / fxrstor {f512}\npcmpistri {x}, {x}, {i8}\npcmpestrm {x}, {x}, {i8}',
  ),
];

/** What faults more often than not, or always. */
export const FAULTS: readonly Template[] = [
  ...each('div idiv', ALL, '$ {rm#}'),
  ...expand(
    ALL,
    'xor edx, edx / div {rm#}\nmov {r#}, {absent}\nmov {absent}, {r#}\nadd {readonly}, {r#}\nmov byte {readonly}, {i8}',
  ),
  ...expand([32], 'ud2\nint3\nint 3\nint 0x40\nint 0x81\nmov {r32}, 0 / div {r8}\nlock ud2\ndb 0xf1'),
  ...expand([32], 'into\nbound {r32}, {m64}\naam 0\nles {r32}, {m48}', 'legacy'),
  ...expand(
    [32],
    'movaps {x}, {m128}\nmovups {absent}, {x}\nmov {r32}, 0xe8 / in al, dx\nltr {r16}\ninvlpg {m8}',
  ),
];

/** Refused in ring 3; in ring 0 they would take the ground from under the test. */
export const PRIVILEGED: readonly Template[] = expand(
  [32],
  'hlt\ncli\nlgdt {f512}\nlidt {f512}\nlmsw {r16}\nclts\nwbinvd\nmov {rc}, cr0\nmov cr3, {rc}\nmov {rc}, dr7\nwrmsr\nrdmsr',
);

/** Harmless in ring 0, though not without effect on translated code. */
export const SYSTEM: readonly Template[] = expand(
  [32],
  'clts\nwbinvd\nmov {rc}, cr0\nmov {rc}, cr2\nmov {rc}, cr3\nmov {rc}, cr4\nmov {rc}, dr7\ncli\nsti\nsti / nop\n' +
    'mov {rca}, cr3 / mov cr3, {rca}\nmov ecx, 0x10 / rdmsr\ncli / nop / sti\nmov {rca}, cr0 / xor eax, 8 / mov cr0, {rca}',
);
