/** The VMCB: where its fields are, what is saved and loaded, what VMRUN refuses. */
import { describe, expect, it } from 'vitest';
import {
  EVENT_TYPE,
  eventInjection,
  exitCodeName,
  INTERCEPT2,
  Iopm,
  Msrpm,
  SAVE,
  VMCB,
  Vmcb,
} from '../../../src-core/engines/hardware/model/vmcb.ts';
import { Machine } from '../../../src-core/machine/machine.ts';
import { CR3, CTL, MSR } from '../../../src-core/x86/layout.ts';
import { MSR_INDEX } from '../../../src-core/x86/msr.ts';
import { longModeGuest } from '../guests.ts';

function cpuAtPowerOn() {
  return new Machine({ memoryMib: 16, kernel: { name: 'guest', bytes: longModeGuest() } }).cpu;
}

describe('VMCB', () => {
  // AMD64 Architecture Programmer's Manual, volume 2, appendix B.
  it('lies as the manual says', () => {
    expect(VMCB).toMatchObject({
      interceptException: 0x8,
      intercept1: 0xc,
      guestAsid: 0x58,
      tlbControl: 0x5c,
    });
    expect(VMCB).toMatchObject({
      exitCode: 0x70,
      exitInfo1: 0x78,
      exitInfo2: 0x80,
      eventInj: 0xa8,
      nRip: 0xc8,
    });
    const save = Object.fromEntries(Object.entries(SAVE).map(([name, at]) => [name, at - 0x400]));
    expect(save).toMatchObject({ es: 0, cs: 0x10, gdtr: 0x60, tr: 0x90, cpl: 0xcb, efer: 0xd0, cr4: 0x148 });
    expect(save).toMatchObject({ cr3: 0x150, cr0: 0x158, rflags: 0x170, rip: 0x178, rsp: 0x1d8, rax: 0x1f8 });
    expect(save).toMatchObject({
      star: 0x200,
      kernelGsBase: 0x220,
      sysenterCs: 0x228,
      cr2: 0x240,
      gPat: 0x268,
    });
  });

  it('gives back what was saved, and what the VMM changed', () => {
    const cpu = cpuAtPowerOn();
    const vmcb = new Vmcb();
    const before = cpu.u8.slice(0, 0x700);
    vmcb.save(cpu, cpu.rip);
    expect(vmcb.get64(SAVE.rip)).toBe(cpu.rip);
    expect(vmcb.get32(SAVE.cr0)).toBe(cpu.cr0 >>> 0);
    vmcb.load(cpu);
    expect(cpu.u8.slice(0, 0x700)).toEqual(before);

    vmcb.set64(SAVE.cr3, 0x5000n);
    vmcb.set64(SAVE.lstar, 0xffffffff80001000n);
    vmcb.set64(SAVE.rax, 0x1122334455667788n);
    vmcb.set32(SAVE.rflags, 0x246);
    // Present data, writable, 32-bit, limit scaled; base and limit of its own.
    const { fs } = SAVE;
    vmcb.u16[fs >> 1] = 0x18;
    vmcb.u16[(fs + 2) >> 1] = 0xc93;
    vmcb.set32(fs + 4, 0xfffff);
    vmcb.set64(fs + 8, 0x7000n);
    vmcb.load(cpu);
    expect(cpu.get64(CR3)).toBe(0x5000n);
    expect(cpu.get64(MSR.lstar)).toBe(0xffffffff80001000n);
    expect(cpu.gpr(0)).toBe(0x1122334455667788n);
    expect(cpu.rflags).toBe(0x246);
    expect(cpu.segment(4)).toEqual({ selector: 0x18, attributes: 0xc093, limit: 0xfffff, base: 0x7000n });
  });

  it('is refused by VMRUN where it is inconsistent', () => {
    const cpu = cpuAtPowerOn();
    const vmcb = new Vmcb();
    vmcb.save(cpu, cpu.rip);
    expect(vmcb.inconsistency()).toMatch('ASID');
    vmcb.set32(VMCB.guestAsid, 1);
    expect(vmcb.inconsistency()).toMatch('VMRUN');
    vmcb.set32(VMCB.intercept2, INTERCEPT2.vmrun);
    expect(vmcb.inconsistency()).toBeUndefined();
    // EFER.LME and CR0.PG without CR4.PAE.
    vmcb.set64(SAVE.efer, 0x500n);
    vmcb.set64(SAVE.cr0, 0x80000011n);
    vmcb.set64(SAVE.cr4, 0n);
    expect(vmcb.inconsistency()).toMatch('CR4.PAE');
    vmcb.set64(SAVE.cr4, 0x20n);
    expect(vmcb.inconsistency()).toBeUndefined();
    vmcb.set64(SAVE.cr0, 0xa0000011n);
    expect(vmcb.inconsistency()).toMatch('CR0.NW');
  });

  it('keeps the flags of an interrupt shadow and the task priority', () => {
    const cpu = cpuAtPowerOn();
    const vmcb = new Vmcb();
    cpu.set32(CTL.interruptShadow, 3);
    cpu.onWriteTpr(9);
    vmcb.save(cpu, 0n);
    expect(vmcb.get32(VMCB.interruptShadow)).toBe(1);
    expect(vmcb.get32(VMCB.vIntr) & 0xff).toBe(9);
  });
});

describe('what goes with it', () => {
  it('names exits as the manual does', () => {
    expect([0x13, 0x7b, 0x400, 0x41, 0x02].map(exitCodeName)).toEqual([
      'VMEXIT_CR3_WRITE',
      'VMEXIT_IOIO',
      'VMEXIT_NPF',
      'VMEXIT_EXCP1',
      'VMEXIT_CR2_READ',
    ]);
  });

  it('puts an event together', () => {
    expect(eventInjection(14, EVENT_TYPE.exception, 5)).toBe(0x0000000580000b0en);
    expect(eventInjection(0x30, EVENT_TYPE.interrupt)).toBe(0x80000030n);
  });

  it('lets MSRs through one by one, and none outside the map', () => {
    const map = new Msrpm();
    expect(map.intercepts(MSR_INDEX.lstar, true)).toBe(true);
    map.passThrough(MSR_INDEX.lstar);
    map.passThrough(0x40000000);
    expect(map.intercepts(MSR_INDEX.lstar, false)).toBe(false);
    expect(map.intercepts(MSR_INDEX.lstar, true)).toBe(false);
    expect(map.intercepts(MSR_INDEX.star, true)).toBe(true);
    expect(map.intercepts(0x40000000, false)).toBe(true);
  });

  it('intercepts every port, the last ones too', () => {
    const map = new Iopm();
    expect(map.intercepts(0, 1)).toBe(true);
    expect(map.intercepts(0xffff, 4)).toBe(true);
  });
});
