/** The structures of the KVM API as this engine has them, against this system's headers. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CAP, SYSTEM_IOCTL, VCPU_IOCTL, VM_IOCTL } from '../../src-core/engines/hardware/kvm/ioctl.ts';
import * as layout from '../../src-core/engines/hardware/kvm/layout.ts';

const unavailable = ((): string | undefined => {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'not Linux on x86-64';
  if (!existsSync('/usr/include/linux/kvm.h')) return 'no kernel headers';
  try {
    execFileSync('cc', ['--version'], { stdio: 'ignore' });
    return undefined;
  } catch {
    return 'no C compiler';
  }
})();

/** C expressions and the numbers they must have. */
const { SIZE, RUN, EXIT_IO, EXIT_MMIO, EXIT_INTERNAL, EXIT_MSR, SEGMENT_FIELD, SREGS, EVENTS } = layout;
const offset = (struct: string, field: string): string => `offsetof(struct ${struct}, ${field})`;
const inExit = (field: string): string => `offsetof(struct kvm_run, ${field}) - offsetof(struct kvm_run, hw)`;

const EXPECTED: Record<string, number> = {
  'sizeof(struct kvm_regs)': SIZE.regs,
  'sizeof(struct kvm_segment)': SIZE.segment,
  'sizeof(struct kvm_dtable)': SIZE.dtable,
  'sizeof(struct kvm_sregs)': SIZE.sregs,
  'sizeof(struct kvm_vcpu_events)': SIZE.vcpuEvents,
  'sizeof(struct kvm_debugregs)': SIZE.debugRegs,
  'sizeof(struct kvm_xsave)': SIZE.xsave,
  'sizeof(struct kvm_userspace_memory_region)': SIZE.memoryRegion,
  'sizeof(struct kvm_enable_cap)': SIZE.enableCap,
  'sizeof(struct kvm_msrs)': SIZE.msrsHeader,
  'sizeof(struct kvm_msr_entry)': SIZE.msrEntry,
  'sizeof(struct kvm_msr_filter)': SIZE.msrFilter,
  'sizeof(struct kvm_msr_filter_range)': SIZE.msrFilterRange,
  'sizeof(struct kvm_cpuid2)': SIZE.cpuidHeader,
  'sizeof(struct kvm_cpuid_entry2)': SIZE.cpuidEntry,
  'sizeof(struct kvm_signal_mask)': SIZE.signalMaskHeader,
  'sizeof(struct kvm_device_attr)': SIZE.deviceAttr,
  'sizeof(struct kvm_stats_header)': SIZE.statsHeader,
  'sizeof(struct kvm_stats_desc)': SIZE.statsDescriptor,
  'sizeof(struct kvm_run)': SIZE.run,
  [offset('kvm_run', 'request_interrupt_window')]: RUN.requestInterruptWindow,
  [offset('kvm_run', 'immediate_exit')]: RUN.immediateExit,
  [offset('kvm_run', 'exit_reason')]: RUN.exitReason,
  [offset('kvm_run', 'ready_for_interrupt_injection')]: RUN.readyForInterruptInjection,
  [offset('kvm_run', 'if_flag')]: RUN.ifFlag,
  [offset('kvm_run', 'cr8')]: RUN.cr8,
  [offset('kvm_run', 'apic_base')]: RUN.apicBase,
  [offset('kvm_run', 'hw')]: RUN.exit,
  [offset('kvm_run', 'kvm_valid_regs')]: RUN.validRegs,
  [offset('kvm_run', 'kvm_dirty_regs')]: RUN.dirtyRegs,
  [offset('kvm_run', 's.regs.regs')]: RUN.regs,
  [offset('kvm_run', 's.regs.sregs')]: RUN.sregs,
  [offset('kvm_run', 's.regs.events')]: RUN.events,
  [inExit('io.direction')]: EXIT_IO.direction,
  [inExit('io.size')]: EXIT_IO.size,
  [inExit('io.port')]: EXIT_IO.port,
  [inExit('io.count')]: EXIT_IO.count,
  [inExit('io.data_offset')]: EXIT_IO.dataOffset,
  [inExit('mmio.phys_addr')]: EXIT_MMIO.address,
  [inExit('mmio.data')]: EXIT_MMIO.data,
  [inExit('mmio.len')]: EXIT_MMIO.length,
  [inExit('mmio.is_write')]: EXIT_MMIO.isWrite,
  [inExit('internal.suberror')]: EXIT_INTERNAL.suberror,
  [inExit('emulation_failure.flags')]: EXIT_INTERNAL.flags,
  [inExit('emulation_failure.insn_size')]: EXIT_INTERNAL.instructionSize,
  [inExit('emulation_failure.insn_bytes')]: EXIT_INTERNAL.instructionBytes,
  [inExit('msr.error')]: EXIT_MSR.error,
  [inExit('msr.reason')]: EXIT_MSR.reason,
  [inExit('msr.index')]: EXIT_MSR.index,
  [inExit('msr.data')]: EXIT_MSR.data,
  ...Object.fromEntries(
    Object.entries(layout.REGS).map(([name, at]) => [offset('kvm_regs', name), at] as const),
  ),
  ...Object.fromEntries(
    Object.entries(SEGMENT_FIELD).map(([name, at]) => [offset('kvm_segment', name), at] as const),
  ),
  ...Object.fromEntries(
    (
      [
        'cs',
        'ds',
        'es',
        'fs',
        'gs',
        'ss',
        'tr',
        'ldt',
        'gdt',
        'idt',
        'cr0',
        'cr2',
        'cr3',
        'cr4',
        'cr8',
        'efer',
      ] as const
    ).map((name) => [offset('kvm_sregs', name), SREGS[name]] as const),
  ),
  [offset('kvm_sregs', 'apic_base')]: SREGS.apicBase,
  [offset('kvm_sregs', 'interrupt_bitmap')]: SREGS.interruptBitmap,
  [offset('kvm_dtable', 'limit')]: SREGS.tableLimit,
  [offset('kvm_vcpu_events', 'exception.injected')]: EVENTS.exceptionInjected,
  [offset('kvm_vcpu_events', 'exception.nr')]: EVENTS.exceptionNumber,
  [offset('kvm_vcpu_events', 'exception.pending')]: EVENTS.exceptionPending,
  [offset('kvm_vcpu_events', 'interrupt.injected')]: EVENTS.interruptInjected,
  [offset('kvm_vcpu_events', 'interrupt.nr')]: EVENTS.interruptNumber,
  [offset('kvm_vcpu_events', 'interrupt.soft')]: EVENTS.interruptSoft,
  [offset('kvm_vcpu_events', 'interrupt.shadow')]: EVENTS.interruptShadow,
  [offset('kvm_vcpu_events', 'nmi.injected')]: EVENTS.nmiInjected,
  [offset('kvm_vcpu_events', 'nmi.pending')]: EVENTS.nmiPending,
  [offset('kvm_vcpu_events', 'nmi.masked')]: EVENTS.nmiMasked,
  [offset('kvm_vcpu_events', 'flags')]: EVENTS.flags,
  KVM_VCPUEVENT_VALID_NMI_PENDING: layout.EVENTS_VALID.nmiPending,
  KVM_VCPUEVENT_VALID_SHADOW: layout.EVENTS_VALID.shadow,
  KVM_X86_SHADOW_INT_MOV_SS: layout.SHADOW.movSs,
  KVM_X86_SHADOW_INT_STI: layout.SHADOW.sti,
  KVM_SYNC_X86_VALID_FIELDS: layout.SYNC.all,
  [offset('kvm_debugregs', 'dr6')]: layout.DEBUG_REGS.dr6,
  [offset('kvm_debugregs', 'dr7')]: layout.DEBUG_REGS.dr7,
  [offset('kvm_userspace_memory_region', 'guest_phys_addr')]: layout.MEMORY_REGION.guestAddress,
  [offset('kvm_userspace_memory_region', 'memory_size')]: layout.MEMORY_REGION.size,
  [offset('kvm_userspace_memory_region', 'userspace_addr')]: layout.MEMORY_REGION.hostAddress,
  KVM_MEM_READONLY: layout.MEMORY_REGION.readonly,
  [offset('kvm_enable_cap', 'args')]: layout.ENABLE_CAP.args,
  [offset('kvm_msrs', 'entries')]: layout.MSRS.entries,
  [offset('kvm_msr_entry', 'data')]: layout.MSRS.entryData,
  [offset('kvm_msr_filter', 'ranges')]: layout.MSR_FILTER.ranges,
  [offset('kvm_msr_filter_range', 'bitmap')]: layout.MSR_FILTER.rangeBitmap,
  KVM_MSR_FILTER_MAX_RANGES: layout.MSR_FILTER.rangeCount,
  KVM_MSR_EXIT_REASON_FILTER: layout.MSR_EXIT.filter,
  [offset('kvm_cpuid2', 'entries')]: layout.CPUID2.entries,
  [offset('kvm_cpuid_entry2', 'index')]: layout.CPUID2.index,
  [offset('kvm_cpuid_entry2', 'flags')]: layout.CPUID2.flags,
  [offset('kvm_cpuid_entry2', 'eax')]: layout.CPUID2.eax,
  [offset('kvm_cpuid_entry2', 'edx')]: layout.CPUID2.edx,
  [offset('kvm_device_attr', 'attr')]: layout.DEVICE_ATTR.attr,
  [offset('kvm_device_attr', 'addr')]: layout.DEVICE_ATTR.address,
  [offset('kvm_stats_header', 'name_size')]: layout.STATS_HEADER.nameSize,
  [offset('kvm_stats_header', 'num_desc')]: layout.STATS_HEADER.count,
  [offset('kvm_stats_header', 'desc_offset')]: layout.STATS_HEADER.descOffset,
  [offset('kvm_stats_header', 'data_offset')]: layout.STATS_HEADER.dataOffset,
  [offset('kvm_stats_desc', 'size')]: layout.STATS_DESCRIPTOR.size,
  [offset('kvm_stats_desc', 'offset')]: layout.STATS_DESCRIPTOR.offset,
  [offset('kvm_stats_desc', 'name')]: layout.STATS_DESCRIPTOR.name,
  KVM_EXIT_IO: layout.EXIT_REASON.io,
  KVM_EXIT_HLT: layout.EXIT_REASON.hlt,
  KVM_EXIT_MMIO: layout.EXIT_REASON.mmio,
  KVM_EXIT_IRQ_WINDOW_OPEN: layout.EXIT_REASON.irqWindowOpen,
  KVM_EXIT_SHUTDOWN: layout.EXIT_REASON.shutdown,
  KVM_EXIT_FAIL_ENTRY: layout.EXIT_REASON.failEntry,
  KVM_EXIT_SET_TPR: layout.EXIT_REASON.setTpr,
  KVM_EXIT_INTERNAL_ERROR: layout.EXIT_REASON.internalError,
  KVM_EXIT_X86_RDMSR: layout.EXIT_REASON.rdmsr,
  KVM_EXIT_X86_WRMSR: layout.EXIT_REASON.wrmsr,
  KVM_GET_API_VERSION: SYSTEM_IOCTL.getApiVersion,
  KVM_CREATE_VM: SYSTEM_IOCTL.createVm,
  KVM_CHECK_EXTENSION: SYSTEM_IOCTL.checkExtension,
  KVM_GET_VCPU_MMAP_SIZE: SYSTEM_IOCTL.getVcpuMmapSize,
  KVM_GET_SUPPORTED_CPUID: SYSTEM_IOCTL.getSupportedCpuid,
  KVM_CREATE_VCPU: VM_IOCTL.createVcpu,
  KVM_SET_USER_MEMORY_REGION: VM_IOCTL.setUserMemoryRegion,
  KVM_SET_TSS_ADDR: VM_IOCTL.setTssAddress,
  KVM_SET_IDENTITY_MAP_ADDR: VM_IOCTL.setIdentityMapAddress,
  KVM_ENABLE_CAP: VM_IOCTL.enableCap,
  KVM_X86_SET_MSR_FILTER: VM_IOCTL.setMsrFilter,
  KVM_GET_STATS_FD: VM_IOCTL.getStatsFd,
  KVM_RUN: VCPU_IOCTL.run,
  KVM_GET_REGS: VCPU_IOCTL.getRegs,
  KVM_SET_REGS: VCPU_IOCTL.setRegs,
  KVM_GET_SREGS: VCPU_IOCTL.getSregs,
  KVM_SET_SREGS: VCPU_IOCTL.setSregs,
  KVM_INTERRUPT: VCPU_IOCTL.interrupt,
  KVM_GET_MSRS: VCPU_IOCTL.getMsrs,
  KVM_SET_MSRS: VCPU_IOCTL.setMsrs,
  KVM_SET_SIGNAL_MASK: VCPU_IOCTL.setSignalMask,
  KVM_SET_CPUID2: VCPU_IOCTL.setCpuid2,
  KVM_NMI: VCPU_IOCTL.nmi,
  KVM_GET_VCPU_EVENTS: VCPU_IOCTL.getVcpuEvents,
  KVM_SET_VCPU_EVENTS: VCPU_IOCTL.setVcpuEvents,
  KVM_GET_DEBUGREGS: VCPU_IOCTL.getDebugRegs,
  KVM_SET_DEBUGREGS: VCPU_IOCTL.setDebugRegs,
  KVM_SET_TSC_KHZ: VCPU_IOCTL.setTscKhz,
  KVM_GET_TSC_KHZ: VCPU_IOCTL.getTscKhz,
  KVM_GET_XSAVE: VCPU_IOCTL.getXsave,
  KVM_SET_XSAVE: VCPU_IOCTL.setXsave,
  KVM_SET_DEVICE_ATTR: VCPU_IOCTL.setDeviceAttr,
  KVM_GET_DEVICE_ATTR: VCPU_IOCTL.getDeviceAttr,
  KVM_CAP_USER_MEMORY: CAP.userMemory,
  KVM_CAP_SYNC_MMU: CAP.syncMmu,
  KVM_CAP_SYNC_REGS: CAP.syncRegs,
  KVM_CAP_READONLY_MEM: CAP.readonlyMemory,
  KVM_CAP_IMMEDIATE_EXIT: CAP.immediateExit,
  KVM_CAP_X86_USER_SPACE_MSR: CAP.userSpaceMsr,
  KVM_CAP_X86_MSR_FILTER: CAP.msrFilter,
  KVM_CAP_BINARY_STATS_FD: CAP.binaryStatsFd,
  KVM_CAP_TSC_CONTROL: CAP.tscControl,
  KVM_CAP_XSAVE: CAP.xsave,
  KVM_CAP_DEBUGREGS: CAP.debugRegs,
  KVM_CAP_VCPU_EVENTS: CAP.vcpuEvents,
  KVM_CAP_EXT_CPUID: CAP.extCpuid,
  KVM_CAP_SET_TSS_ADDR: CAP.setTssAddress,
  KVM_CAP_SET_IDENTITY_MAP_ADDR: CAP.setIdentityMapAddress,
};

function evaluate(expressions: readonly string[]): number[] {
  const directory = mkdtempSync(join(tmpdir(), 'switchyard-layout-'));
  try {
    const source = join(directory, 'layout.c');
    const program = join(directory, 'layout');
    const prints = expressions.map((text) => `printf("%lu\\n", (unsigned long)(${text}));`);
    writeFileSync(
      source,
      `#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\nint main(void) { ${prints.join('\n')} return 0; }`,
    );
    execFileSync('cc', ['-w', '-o', program, source], { stdio: ['ignore', 'inherit', 'inherit'] });
    return execFileSync(program, { encoding: 'utf8' }).trim().split('\n').map(Number);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

describe('KVM API', () => {
  const name = 'offsets, sizes and numbers are those of linux/kvm.h';
  if (unavailable !== undefined) {
    it.skip(`${name} (skipped: ${unavailable})`, () => undefined);
    return;
  }
  it(name, () => {
    const expressions = Object.keys(EXPECTED);
    const values = evaluate(expressions);
    const found = Object.fromEntries(expressions.map((text, i) => [text, values[i]]));
    expect(found).toEqual(EXPECTED);
  });
});
