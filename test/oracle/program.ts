/**
 * The oracle program: a freestanding x86-64 Linux executable, assembled here, that runs single instructions
 * with a given starting state and reports the state they leave.
 *
 * A case ends in a trap in every case: in the fault the instruction raised, or in the INT3 after it (or where it
 * jumped to). The kernel's signal frame then holds the complete state, which the handler copies out; it never
 * returns through sigreturn but goes straight on with the next case.
 *
 * Protocol: on start the program writes {@link HELLO_MAGIC} and the mask of refused LDT entries (two u32), then
 * reads IMAGE_COUNT data window images. From then on: read u32 count and count cases, write u32 length and that
 * many bytes of results. It ends with status 0 at end of input.
 */
import { Code, Instruction, Register } from 'iced-x86';
import { Assembler, Label, mem, memAt } from './assembler.ts';
import {
  CASE,
  CASE_SIZE,
  CODE_BASE,
  CODE_SIZE,
  DATA_BASE,
  DATA_SIZE,
  FXSAVE_SIZE,
  HELLO_MAGIC,
  IMAGE_COUNT,
  LDT,
  ORACLE,
  PATCH_STRIDE,
  RESULT,
  VECTOR_ENDLESS,
} from './layout.ts';

/** Linux x86-64 system call numbers (arch/x86/entry/syscalls/syscall_64.tbl). */
const SYS = {
  read: 0,
  write: 1,
  mmap: 9,
  rtSigaction: 13,
  rtSigreturn: 15,
  setitimer: 38,
  exit: 60,
  sigaltstack: 131,
  modifyLdt: 154,
  archPrctl: 158,
};
const ARCH_SET_GS = 0x1001;
const ARCH_SET_FS = 0x1002;
const ARCH_GET_FS = 0x1003;
const ARCH_GET_GS = 0x1004;
const SIGNALS = [4, 5, 7, 8, 11];
/** SA_SIGINFO | SA_RESTORER | SA_ONSTACK | SA_NODEFER. */
const SA_FLAGS = 0x4 | 0x0400_0000 | 0x0800_0000 | 0x4000_0000;
/** A case that is still running after two ticks of this timer (microseconds of processor time) does not end. */
const SIGVTALRM = 26;
const ITIMER_VIRTUAL = 1;
const TICK = 20_000;
const SA_RESTART = 0x1000_0000;
const MAP_FIXED_PRIVATE_ANONYMOUS = 0x10 | 0x02 | 0x20;
const EXIT_SETUP_FAILED = 3;
const EXIT_SHORT_READ = 4;

/** Offset of uc_mcontext in struct ucontext, and of its fields (arch/x86/include/uapi/asm/sigcontext.h). */
const UCONTEXT = {
  r8: 0x28,
  rdi: 0x68,
  rsi: 0x70,
  rbp: 0x78,
  rbx: 0x80,
  rdx: 0x88,
  rax: 0x90,
  rcx: 0x98,
  rsp: 0xa0,
  rip: 0xa8,
  rflags: 0xb0,
  segments: 0xb8,
  errorCode: 0xc0,
  trapno: 0xc8,
  cr2: 0xd8,
  fpstate: 0xe0,
} as const;

/** The program's variables, behind its text. */
const VARS_OFFSET = 0x1000;
const VAR = {
  caseLeft: 0x00,
  casePointer: 0x08,
  outPointer: 0x10,
  entryRsp: 0x18,
  farPointer: 0x20,
  io: 0x30,
  sigaction: 0x40,
  sigaltstack: 0x60,
  /** The watchdog's struct sigaction, its interval, and the case it saw running at its last tick. */
  watchdog: 0x80,
  interval: 0xa0,
  tickCase: 0xc0,
  ldt: 0xd0,
} as const;
const VARS_SIZE = VAR.ldt + LDT.length * 16;
const ELF_HEADER_SIZE = 64;
const PROGRAM_HEADER_SIZE = 56;
const TEXT_OFFSET = ELF_HEADER_SIZE + 2 * PROGRAM_HEADER_SIZE;

const { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R12, R13, R14, R15, EAX, ECX, XMM0, AL } =
  Register;
const GPRS = [RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, Register.R11, R12, R13, R14, R15];

/** Emits the program's parts; kept together because they share the register conventions. */
class ProgramBuilder {
  private readonly asm = new Assembler();
  private readonly vars = ORACLE.text + BigInt(VARS_OFFSET);
  private readonly fail = new Label('fail');
  private readonly readFull = new Label('readFull');
  private readonly writeFull = new Label('writeFull');
  private readonly handler = new Label('handler');
  private readonly collect = new Label('collect');
  private readonly watchdog = new Label('watchdog');
  private readonly sigreturn = new Label('sigreturn');
  private readonly nextBatch = new Label('nextBatch');
  private readonly nextCase = new Label('nextCase');

  /** Machine code of the whole program, to be placed at {@link ORACLE}.text + TEXT_OFFSET. */
  build(): Uint8Array {
    this.emitStart();
    this.emitBatchLoop();
    this.emitCase();
    this.emitHandler();
    this.emitWatchdog();
    this.emitHelpers();
    return this.asm.assemble(ORACLE.text + BigInt(TEXT_OFFSET));
  }

  private var(offset: number): ReturnType<typeof memAt> {
    return memAt(this.vars + BigInt(offset));
  }

  private set(register: Register, value: bigint | number): void {
    this.asm.emit(Instruction.createRegU64(Code.Mov_r64_imm64, register, BigInt(value)));
  }

  private move(to: Register, from: Register): void {
    this.asm.emit(Instruction.createRegReg(Code.Mov_r64_rm64, to, from));
  }

  private load(register: Register, base: Register, offset: number): void {
    this.asm.emit(Instruction.createRegMem(Code.Mov_r64_rm64, register, mem(base, offset)));
  }

  private load32(register: Register, base: Register, offset: number): void {
    this.asm.emit(Instruction.createRegMem(Code.Mov_r32_rm32, register, mem(base, offset)));
  }

  private store(base: Register, offset: number, register: Register): void {
    this.asm.emit(Instruction.createMemReg(Code.Mov_rm64_r64, mem(base, offset), register));
  }

  private store32(base: Register, offset: number, register: Register): void {
    this.asm.emit(Instruction.createMemReg(Code.Mov_rm32_r32, mem(base, offset), register));
  }

  private loadVar(register: Register, variable: number): void {
    this.asm.emit(Instruction.createRegMem(Code.Mov_r64_rm64, register, this.var(variable)));
  }

  private storeVar(variable: number, register: Register): void {
    this.asm.emit(Instruction.createMemReg(Code.Mov_rm64_r64, this.var(variable), register));
  }

  private addImmediate(register: Register, value: number): void {
    this.asm.emit(Instruction.createRegI32(Code.Add_rm64_imm32, register, value));
  }

  private syscall(number: number): void {
    this.set(RAX, number);
    this.asm.emit(Instruction.create(Code.Syscall));
  }

  /** RAX negative: the call failed; leave with {@link EXIT_SETUP_FAILED}. */
  private failIfNegative(): void {
    this.asm.emit(Instruction.createRegReg(Code.Test_rm64_r64, RAX, RAX));
    this.asm.branch(Code.Js_rel32_64, this.fail);
  }

  private exit(status: number): void {
    this.set(RDI, status);
    this.syscall(SYS.exit);
  }

  private mapFixed(address: bigint, size: bigint, protection: number): void {
    this.set(RDI, address);
    this.set(RSI, size);
    this.set(RDX, protection);
    this.set(R10, MAP_FIXED_PRIVATE_ANONYMOUS);
    this.set(R8, 0xffff_ffff_ffff_ffffn);
    this.set(R9, 0);
    this.syscall(SYS.mmap);
    this.failIfNegative();
  }

  /** Calls readFull or writeFull with RSI = address, RDX = length. */
  private call(label: Label): void {
    this.asm.branch(Code.Call_rel32_64, label);
  }

  private emitStart(): void {
    const { asm } = this;
    this.mapFixed(ORACLE.work, ORACLE.workSize, 3);
    this.mapFixed(BigInt(CODE_BASE), BigInt(CODE_SIZE), 7);
    this.mapFixed(BigInt(DATA_BASE), BigInt(DATA_SIZE), 3);
    this.set(RSP, ORACLE.work + ORACLE.stackTop);

    asm.leaLabel(Code.Lea_r64_m, RAX, this.handler);
    this.storeVar(VAR.sigaction, RAX);
    // A restorer must be named, though the handler never returns to it.
    this.storeVar(VAR.sigaction + 0x10, RAX);
    for (const signal of SIGNALS) {
      this.set(RDI, signal);
      this.set(RSI, this.vars + BigInt(VAR.sigaction));
      this.set(RDX, 0);
      this.set(R10, 8);
      this.syscall(SYS.rtSigaction);
      this.failIfNegative();
    }
    asm.leaLabel(Code.Lea_r64_m, RAX, this.watchdog);
    this.storeVar(VAR.watchdog, RAX);
    asm.leaLabel(Code.Lea_r64_m, RAX, this.sigreturn);
    this.storeVar(VAR.watchdog + 0x10, RAX);
    this.set(RDI, SIGVTALRM);
    this.set(RSI, this.vars + BigInt(VAR.watchdog));
    this.set(RDX, 0);
    this.set(R10, 8);
    this.syscall(SYS.rtSigaction);
    this.failIfNegative();
    this.set(RDI, this.vars + BigInt(VAR.sigaltstack));
    this.set(RSI, 0);
    this.syscall(SYS.sigaltstack);
    this.failIfNegative();

    this.set(RDI, ITIMER_VIRTUAL);
    this.set(RSI, this.vars + BigInt(VAR.interval));
    this.set(RDX, 0);
    this.syscall(SYS.setitimer);
    this.failIfNegative();

    // Refused LDT entries are reported, not fatal: 64-bit cases need none.
    this.set(R13, 0);
    for (let index = 0; index < LDT.length; index++) {
      const granted = new Label(`granted${index}`);
      this.set(RDI, 0x11);
      this.set(RSI, this.vars + BigInt(VAR.ldt + index * 16));
      this.set(RDX, 16);
      this.syscall(SYS.modifyLdt);
      asm.emit(Instruction.createRegReg(Code.Test_rm32_r32, EAX, EAX));
      asm.branch(Code.Je_rel32_64, granted);
      asm.emit(Instruction.createRegI32(Code.Or_rm64_imm32, R13, 1 << index));
      asm.bind(granted);
    }
    this.set(RAX, HELLO_MAGIC);
    asm.emit(Instruction.createMemReg(Code.Mov_rm32_r32, this.var(VAR.io), EAX));
    asm.emit(Instruction.createMemReg(Code.Mov_rm32_r32, this.var(VAR.io + 4), Register.R13D));
    this.set(RSI, this.vars + BigInt(VAR.io));
    this.set(RDX, 8);
    this.call(this.writeFull);

    this.set(RSI, ORACLE.work + ORACLE.images);
    this.set(RDX, IMAGE_COUNT * DATA_SIZE);
    this.call(this.readFull);
  }

  private emitBatchLoop(): void {
    const { asm } = this;
    asm.bind(this.nextBatch);
    this.set(RSI, this.vars + BigInt(VAR.io));
    this.set(RDX, 4);
    this.call(this.readFull);
    asm.emit(Instruction.createRegMem(Code.Mov_r32_rm32, EAX, this.var(VAR.io)));
    this.storeVar(VAR.caseLeft, RAX);
    asm.emit(Instruction.createRegRegI32(Code.Imul_r64_rm64_imm32, RDX, RAX, CASE_SIZE));
    this.set(RSI, ORACLE.work + ORACLE.input);
    this.storeVar(VAR.casePointer, RSI);
    this.call(this.readFull);
    this.set(RAX, ORACLE.work + ORACLE.output);
    this.storeVar(VAR.outPointer, RAX);

    asm.bind(this.nextCase);
    const run = new Label('run');
    this.loadVar(RAX, VAR.caseLeft);
    asm.emit(Instruction.createRegReg(Code.Test_rm64_r64, RAX, RAX));
    asm.branch(Code.Jne_rel32_64, run);
    // The batch is done: length, then the results.
    this.loadVar(RBX, VAR.outPointer);
    this.set(RAX, ORACLE.work + ORACLE.output);
    asm.emit(Instruction.createRegReg(Code.Sub_r64_rm64, RBX, RAX));
    this.storeVar(VAR.io, RBX);
    this.set(RSI, this.vars + BigInt(VAR.io));
    this.set(RDX, 4);
    this.call(this.writeFull);
    this.set(RSI, ORACLE.work + ORACLE.output);
    this.move(RDX, RBX);
    this.call(this.writeFull);
    asm.branch(Code.Jmp_rel32_64, this.nextBatch);
    asm.bind(run);
  }

  private emitCase(): void {
    const { asm } = this;
    const dataBase = BigInt(DATA_BASE);
    // RBX = case. First the data window: image, patches, and a shadow to compare with afterwards.
    this.loadVar(RBX, VAR.casePointer);
    this.set(RDI, dataBase);
    this.load32(EAX, RBX, CASE.image);
    asm.emit(Instruction.createRegRegI32(Code.Imul_r64_rm64_imm32, RAX, RAX, DATA_SIZE));
    this.set(RSI, ORACLE.work + ORACLE.images);
    asm.emit(Instruction.createRegReg(Code.Add_r64_rm64, RSI, RAX));
    this.set(RCX, DATA_SIZE / 8);
    asm.emit(Instruction.createRepMovsq(64));

    const patch = new Label('patch');
    const patched = new Label('patched');
    this.load32(ECX, RBX, CASE.patchCount);
    asm.emit(Instruction.createRegMem(Code.Lea_r64_m, RSI, mem(RBX, CASE.patches)));
    this.set(RDX, dataBase);
    asm.bind(patch);
    asm.emit(Instruction.createRegReg(Code.Test_rm32_r32, ECX, ECX));
    asm.branch(Code.Je_rel32_64, patched);
    this.load32(EAX, RSI, 0);
    asm.emit(Instruction.createRegReg(Code.Add_r64_rm64, RAX, RDX));
    asm.emit(Instruction.createRegMem(Code.Movups_xmm_xmmm128, XMM0, mem(RSI, 8)));
    asm.emit(Instruction.createMemReg(Code.Movups_xmmm128_xmm, mem(RAX), XMM0));
    this.addImmediate(RSI, PATCH_STRIDE);
    this.addImmediate(RCX, -1);
    asm.branch(Code.Jmp_rel32_64, patch);
    asm.bind(patched);

    this.set(RSI, dataBase);
    this.set(RDI, ORACLE.work + ORACLE.shadow);
    this.set(RCX, DATA_SIZE / 8);
    asm.emit(Instruction.createRepMovsq(64));

    // The code page: INT3 everywhere but for the instruction.
    this.set(RDI, CODE_BASE);
    this.set(RAX, 0xcccc_cccc_cccc_ccccn);
    this.set(RCX, CODE_SIZE / 8);
    asm.emit(Instruction.createRepStosq(64));
    this.set(RDI, CODE_BASE);
    this.load32(EAX, RBX, CASE.codeStart);
    asm.emit(Instruction.createRegReg(Code.Add_r64_rm64, RDI, RAX));
    asm.emit(Instruction.createRegMem(Code.Lea_r64_m, RSI, mem(RBX, CASE.code)));
    this.load32(ECX, RBX, CASE.codeLength);
    asm.emit(Instruction.createRepMovsb(64));

    this.load(RAX, RBX, CASE.entry);
    this.storeVar(VAR.farPointer, RAX);

    const segments: [Register, number][] = [
      [Register.FS, CASE.fs],
      [Register.GS, CASE.gs],
      [Register.DS, CASE.ds],
      [Register.ES, CASE.es],
      [Register.SS, CASE.ss],
    ];
    for (const [register, offset] of segments)
      asm.emit(Instruction.createRegMem(Code.Mov_Sreg_r32m16, register, mem(RBX, offset)));
    const basesSet = new Label('basesSet');
    this.load32(EAX, RBX, CASE.setBases);
    asm.emit(Instruction.createRegReg(Code.Test_rm32_r32, EAX, EAX));
    asm.branch(Code.Je_rel32_64, basesSet);
    for (const [request, offset] of [
      [ARCH_SET_FS, CASE.fsBase],
      [ARCH_SET_GS, CASE.gsBase],
    ] as const) {
      this.set(RDI, request);
      this.load(RSI, RBX, offset);
      this.syscall(SYS.archPrctl);
    }
    asm.bind(basesSet);

    asm.emit(Instruction.createMem(Code.Fxrstor64_m512byte, mem(RBX, CASE.fxsave)));
    // From here the case record is the stack: RFLAGS, then the registers in encoding order.
    asm.emit(Instruction.createRegMem(Code.Lea_r64_m, RSP, mem(RBX, CASE.rflags)));
    asm.emit(Instruction.create(Code.Popfq));
    for (const register of GPRS) {
      if (register === RSP) asm.emit(Instruction.createMem(Code.Pop_rm64, this.var(VAR.entryRsp)));
      else asm.emit(Instruction.createReg(Code.Pop_r64, register));
    }
    this.loadVar(RSP, VAR.entryRsp);
    asm.emit(Instruction.createMem(Code.Jmp_m1632, this.var(VAR.farPointer)));
  }

  private emitHandler(): void {
    const { asm } = this;
    // RDI = signal, RDX = ucontext. Flags first: the case may have left AC set.
    asm.bind(this.handler);
    asm.emit(Instruction.createI32(Code.Pushq_imm32, 0x202));
    asm.emit(Instruction.create(Code.Popfq));
    asm.bind(this.collect);
    this.loadVar(R15, VAR.outPointer);
    this.store32(R15, RESULT.signal, Register.EDI);
    const copies: [number, number][] = [
      [UCONTEXT.cr2, RESULT.cr2],
      [UCONTEXT.rip, RESULT.rip],
      [UCONTEXT.rflags, RESULT.rflags],
      [UCONTEXT.segments, RESULT.cs],
    ];
    const order = [
      UCONTEXT.rax,
      UCONTEXT.rcx,
      UCONTEXT.rdx,
      UCONTEXT.rbx,
      UCONTEXT.rsp,
      UCONTEXT.rbp,
      UCONTEXT.rsi,
      UCONTEXT.rdi,
    ];
    for (let index = 0; index < 16; index++)
      copies.push([order[index] ?? UCONTEXT.r8 + (index - 8) * 8, RESULT.gpr + index * 8]);
    for (const [from, to] of copies) {
      this.load(RAX, RDX, from);
      this.store(R15, to, RAX);
    }
    // The watchdog's signal says nothing about the trap before.
    const trapped = new Label('trapped');
    const vectorKnown = new Label('vectorKnown');
    asm.emit(Instruction.createRegI32(Code.Cmp_rm32_imm32, Register.EDI, SIGVTALRM));
    asm.branch(Code.Jne_rel32_64, trapped);
    this.set(RAX, VECTOR_ENDLESS);
    asm.branch(Code.Jmp_rel32_64, vectorKnown);
    asm.bind(trapped);
    this.load(RAX, RDX, UCONTEXT.trapno);
    asm.bind(vectorKnown);
    this.store32(R15, RESULT.vector, EAX);
    this.load(RAX, RDX, UCONTEXT.errorCode);
    this.store32(R15, RESULT.errorCode, EAX);
    // The kernel saves CS and SS alone; the others are still as the case left them.
    for (const [register, offset] of [
      [Register.DS, RESULT.ds],
      [Register.ES, RESULT.es],
      [Register.FS, RESULT.fs],
      [Register.GS, RESULT.gs],
    ] as const)
      asm.emit(Instruction.createMemReg(Code.Mov_r32m16_Sreg, mem(R15, offset), register));
    this.load(RSI, RDX, UCONTEXT.fpstate);
    asm.emit(Instruction.createRegMem(Code.Lea_r64_m, RDI, mem(R15, RESULT.fxsave)));
    this.set(RCX, FXSAVE_SIZE / 8);
    asm.emit(Instruction.createRepMovsq(64));
    for (const [request, offset] of [
      [ARCH_GET_FS, RESULT.fsBase],
      [ARCH_GET_GS, RESULT.gsBase],
    ] as const) {
      this.set(RDI, request);
      asm.emit(Instruction.createRegMem(Code.Lea_r64_m, RSI, mem(R15, offset)));
      this.syscall(SYS.archPrctl);
    }
    this.set(RAX, 0);
    for (const register of [Register.DS, Register.ES, Register.FS, Register.GS])
      asm.emit(Instruction.createRegReg(Code.Mov_Sreg_r32m16, register, EAX));
    this.set(RSP, ORACLE.work + ORACLE.stackTop);

    // What changed in the data window: the first and the last 16-byte block that differ from the shadow.
    // R12 = first, R13 = one past the last.
    const forward = new Label('forward');
    const unchanged = new Label('unchanged');
    const foundFirst = new Label('foundFirst');
    const backward = new Label('backward');
    const foundLast = new Label('foundLast');
    const compared = new Label('compared');
    this.set(RSI, DATA_BASE);
    this.set(RDI, ORACLE.work + ORACLE.shadow);
    this.set(R12, 0);
    this.set(R13, DATA_SIZE);
    asm.bind(forward);
    this.emitCompareBlock(R12, 0);
    asm.branch(Code.Jne_rel32_64, foundFirst);
    this.addImmediate(R12, 16);
    asm.emit(Instruction.createRegReg(Code.Cmp_r64_rm64, R12, R13));
    asm.branch(Code.Jb_rel32_64, forward);
    asm.bind(unchanged);
    this.set(R12, 0);
    this.set(R13, 0);
    asm.branch(Code.Jmp_rel32_64, compared);
    asm.bind(foundFirst);
    asm.bind(backward);
    this.emitCompareBlock(R13, -16);
    asm.branch(Code.Jne_rel32_64, foundLast);
    this.addImmediate(R13, -16);
    asm.branch(Code.Jmp_rel32_64, backward);
    asm.bind(foundLast);
    asm.bind(compared);
    this.store32(R15, RESULT.dirtyStart, Register.R12D);
    this.store32(R15, RESULT.dirtyEnd, Register.R13D);

    asm.emit(Instruction.createRegReg(Code.Add_r64_rm64, RSI, R12));
    asm.emit(Instruction.createRegMem(Code.Lea_r64_m, RDI, mem(R15, RESULT.memory)));
    this.move(RCX, R13);
    asm.emit(Instruction.createRegReg(Code.Sub_r64_rm64, RCX, R12));
    asm.emit(Instruction.createRepMovsb(64));
    this.storeVar(VAR.outPointer, RDI);
    asm.emit(Instruction.createRegReg(Code.Sub_r64_rm64, RDI, R15));
    this.store32(R15, RESULT.length, Register.EDI);

    this.loadVar(RAX, VAR.casePointer);
    this.addImmediate(RAX, CASE_SIZE);
    this.storeVar(VAR.casePointer, RAX);
    this.loadVar(RAX, VAR.caseLeft);
    this.addImmediate(RAX, -1);
    this.storeVar(VAR.caseLeft, RAX);
    asm.branch(Code.Jmp_rel32_64, this.nextCase);
  }

  /** The watchdog's handler: a case seen at two ticks in a row is ended and reported, anything else goes on. */
  private emitWatchdog(): void {
    const { asm } = this;
    const leave = new Label('leave');
    asm.bind(this.watchdog);
    asm.emit(Instruction.createI32(Code.Pushq_imm32, 0x202));
    asm.emit(Instruction.create(Code.Popfq));
    // Only cases run below 4 GiB.
    this.load(RAX, RDX, UCONTEXT.rip);
    asm.emit(Instruction.createRegI32(Code.Shr_rm64_imm8, RAX, 32));
    asm.branch(Code.Jne_rel32_64, leave);
    this.loadVar(RAX, VAR.casePointer);
    this.loadVar(RCX, VAR.tickCase);
    this.storeVar(VAR.tickCase, RAX);
    asm.emit(Instruction.createRegReg(Code.Cmp_r64_rm64, RAX, RCX));
    asm.branch(Code.Je_rel32_64, this.collect);
    asm.bind(leave);
    // Returning from the handler reaches the restorer with the frame on top of the stack.
    asm.emit(Instruction.create(Code.Retnq));
    asm.bind(this.sigreturn);
    this.syscall(SYS.rtSigreturn);
  }

  /** Compares the 16 bytes at RSI + index + displacement with those at RDI + the same; ZF set when equal. */
  private emitCompareBlock(index: Register, displacement: number): void {
    const { asm } = this;
    asm.emit(Instruction.createRegMem(Code.Lea_r64_m, RBP, mem(index, displacement)));
    asm.emit(Instruction.createRegReg(Code.Add_r64_rm64, RBP, RSI));
    asm.emit(Instruction.createRegMem(Code.Movdqu_xmm_xmmm128, XMM0, mem(RBP)));
    asm.emit(Instruction.createRegReg(Code.Sub_r64_rm64, RBP, RSI));
    asm.emit(Instruction.createRegReg(Code.Add_r64_rm64, RBP, RDI));
    asm.emit(Instruction.createRegMem(Code.Movdqu_xmm_xmmm128, Register.XMM1, mem(RBP)));
    asm.emit(Instruction.createRegReg(Code.Pcmpeqb_xmm_xmmm128, XMM0, Register.XMM1));
    asm.emit(Instruction.createRegReg(Code.Pmovmskb_r32_xmm, EAX, XMM0));
    asm.emit(Instruction.createRegI32(Code.Cmp_rm32_imm32, EAX, 0xffff));
  }

  private emitHelpers(): void {
    const { asm } = this;
    asm.bind(this.fail);
    this.exit(EXIT_SETUP_FAILED);

    // readFull: RSI = buffer, RDX = bytes, from fd 0. End of input before the first byte ends the program.
    const readMore = new Label('readMore');
    const readDone = new Label('readDone');
    const readEnd = new Label('readEnd');
    asm.bind(this.readFull);
    this.move(R12, RDX);
    asm.bind(readMore);
    asm.emit(Instruction.createRegReg(Code.Test_rm64_r64, RDX, RDX));
    asm.branch(Code.Je_rel32_64, readDone);
    this.set(RDI, 0);
    this.syscall(SYS.read);
    asm.emit(Instruction.createRegReg(Code.Test_rm64_r64, RAX, RAX));
    asm.branch(Code.Jle_rel32_64, readEnd);
    asm.emit(Instruction.createRegReg(Code.Add_r64_rm64, RSI, RAX));
    asm.emit(Instruction.createRegReg(Code.Sub_r64_rm64, RDX, RAX));
    asm.branch(Code.Jmp_rel32_64, readMore);
    asm.bind(readDone);
    asm.emit(Instruction.create(Code.Retnq));
    asm.bind(readEnd);
    this.set(RDI, 0);
    asm.emit(Instruction.createRegReg(Code.Cmp_r64_rm64, RDX, R12));
    asm.emit(Instruction.createReg(Code.Setne_rm8, AL));
    asm.emit(Instruction.createRegReg(Code.Movzx_r32_rm8, EAX, AL));
    asm.emit(Instruction.createRegRegI32(Code.Imul_r64_rm64_imm32, RDI, RAX, EXIT_SHORT_READ));
    this.syscall(SYS.exit);

    const writeMore = new Label('writeMore');
    const writeDone = new Label('writeDone');
    asm.bind(this.writeFull);
    asm.bind(writeMore);
    asm.emit(Instruction.createRegReg(Code.Test_rm64_r64, RDX, RDX));
    asm.branch(Code.Je_rel32_64, writeDone);
    this.set(RDI, 1);
    this.syscall(SYS.write);
    this.failIfNegative();
    asm.emit(Instruction.createRegReg(Code.Add_r64_rm64, RSI, RAX));
    asm.emit(Instruction.createRegReg(Code.Sub_r64_rm64, RDX, RAX));
    asm.branch(Code.Jmp_rel32_64, writeMore);
    asm.bind(writeDone);
    asm.emit(Instruction.create(Code.Retnq));
  }
}

function buildVariables(): Uint8Array {
  const bytes = new Uint8Array(VARS_SIZE);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(VAR.sigaction + 8, BigInt(SA_FLAGS >>> 0), true);
  view.setBigUint64(VAR.watchdog + 8, BigInt((SA_FLAGS | SA_RESTART) >>> 0), true);
  view.setBigUint64(VAR.interval + 8, BigInt(TICK), true);
  view.setBigUint64(VAR.interval + 24, BigInt(TICK), true);
  view.setBigUint64(VAR.sigaltstack, ORACLE.work + ORACLE.altStack, true);
  view.setBigUint64(VAR.sigaltstack + 16, ORACLE.altStackSize, true);
  LDT.forEach((entry, index) => {
    // struct user_desc: entry_number, base_addr, limit, bit field.
    const at = VAR.ldt + index * 16;
    view.setUint32(at, index, true);
    view.setUint32(at + 4, entry.base, true);
    view.setUint32(at + 8, entry.limit, true);
    const bits =
      (entry.big ? 1 : 0) |
      (entry.contents << 1) |
      (entry.restricted ? 8 : 0) |
      (entry.pages ? 0x10 : 0) |
      (entry.present ? 0 : 0x20);
    view.setUint32(at + 12, bits, true);
  });
  return bytes;
}

/**
 * The oracle as an ELF64 executable file.
 * @throws Error when the text outgrows its place (a mistake in this file).
 */
export function buildOracleProgram(): Uint8Array {
  const text = new ProgramBuilder().build();
  if (TEXT_OFFSET + text.length > VARS_OFFSET) throw new Error(`oracle text too long: ${text.length} bytes`);
  const variables = buildVariables();
  const size = VARS_OFFSET + variables.length;
  const file = new Uint8Array(size);
  file.set(text, TEXT_OFFSET);
  file.set(variables, VARS_OFFSET);
  const view = new DataView(file.buffer);
  // ELF header (System V ABI, chapter 4): ELF64, little endian, ET_EXEC, EM_X86_64.
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1], 0);
  view.setUint16(16, 2, true);
  view.setUint16(18, 62, true);
  view.setUint32(20, 1, true);
  view.setBigUint64(24, ORACLE.text + BigInt(TEXT_OFFSET), true);
  view.setBigUint64(32, BigInt(ELF_HEADER_SIZE), true);
  view.setUint16(52, ELF_HEADER_SIZE, true);
  view.setUint16(54, PROGRAM_HEADER_SIZE, true);
  view.setUint16(56, 2, true);
  view.setUint16(58, 64, true);
  const header = (index: number, type: number, flags: number, address: bigint, bytes: number): void => {
    const at = ELF_HEADER_SIZE + index * PROGRAM_HEADER_SIZE;
    view.setUint32(at, type, true);
    view.setUint32(at + 4, flags, true);
    view.setBigUint64(at + 16, address, true);
    view.setBigUint64(at + 24, address, true);
    view.setBigUint64(at + 32, BigInt(bytes), true);
    view.setBigUint64(at + 40, BigInt(bytes), true);
    view.setBigUint64(at + 48, 0x1000n, true);
  };
  header(0, 1, 7, ORACLE.text, size);
  // PT_GNU_STACK without X: otherwise readable memory would be executable, and the data window must not be.
  header(1, 0x6474_e551, 6, 0n, 0);
  return file;
}
