import type { Cpu } from '../../../x86/cpu.ts';
import { FPU, ST, XMM } from '../../../x86/layout.ts';
import { FSW } from '../../../x86/fpu/state.ts';
import { XSAVE } from './layout.ts';
import type { KvmVcpu } from './vcpu.ts';

/**
 * x87, MMX and SSE state between the arena and KVM, as an XSAVE area. (KVM_SET_FPU is not used: it has been seen to
 * lose values.) The selectors of the x87 instruction and operand pointers have no place in its 64-bit form: those in
 * the arena stay as they are. AMD's processors keep the pointers and the opcode only while an exception is pending, so
 * there they may come back as zero.
 */

const ST_BYTES = 10;
const ST_SIZE = 16;
const XMM_BYTES = 256;

export function exportFloatingPoint(cpu: Cpu, vcpu: KvmVcpu): void {
  const { u8, u32, view, address } = vcpu.buffer;
  const top = cpu.get32(FPU.top);
  u8.fill(0, 0, 4096);
  view.setUint16(XSAVE.fcw, cpu.get32(FPU.fcw), true);
  view.setUint16(XSAVE.fsw, (cpu.get32(FPU.fsw) & ~FSW.topMask) | (top << FSW.topShift), true);
  u8[XSAVE.ftw] = ~cpu.get32(FPU.empty);
  view.setUint16(XSAVE.fop, cpu.get32(FPU.fop), true);
  view.setBigUint64(XSAVE.fip, cpu.get64(FPU.fip), true);
  view.setBigUint64(XSAVE.fdp, cpu.get64(FPU.fdp), true);
  u32[XSAVE.mxcsr >> 2] = cpu.get32(FPU.mxcsr);
  for (let i = 0; i < 8; i++) {
    const from = ST + ((top + i) & 7) * ST_SIZE;
    u8.set(cpu.u8.subarray(from, from + ST_BYTES), XSAVE.st + i * ST_SIZE);
  }
  u8.set(cpu.u8.subarray(XMM, XMM + XMM_BYTES), XSAVE.xmm);
  u32[XSAVE.xstateBv >> 2] = XSAVE.legacyComponents;
  vcpu.ioctl('setXsave', address);
}

export function importFloatingPoint(cpu: Cpu, vcpu: KvmVcpu): void {
  const { u8, u32, view, address } = vcpu.buffer;
  vcpu.ioctl('getXsave', address);
  const status = view.getUint16(XSAVE.fsw, true);
  const top = (status & FSW.topMask) >> FSW.topShift;
  cpu.set32(FPU.fcw, view.getUint16(XSAVE.fcw, true));
  cpu.set32(FPU.fsw, status & ~FSW.topMask);
  cpu.set32(FPU.top, top);
  cpu.set32(FPU.empty, ~u8[XSAVE.ftw]! & 0xff);
  cpu.set32(FPU.fop, view.getUint16(XSAVE.fop, true));
  cpu.set64(FPU.fip, view.getBigUint64(XSAVE.fip, true));
  cpu.set64(FPU.fdp, view.getBigUint64(XSAVE.fdp, true));
  cpu.set32(FPU.mxcsr, u32[XSAVE.mxcsr >> 2]!);
  for (let i = 0; i < 8; i++) {
    const from = XSAVE.st + i * ST_SIZE;
    cpu.u8.set(u8.subarray(from, from + ST_BYTES), ST + ((top + i) & 7) * ST_SIZE);
  }
  cpu.u8.set(u8.subarray(XSAVE.xmm, XSAVE.xmm + XMM_BYTES), XMM);
}
