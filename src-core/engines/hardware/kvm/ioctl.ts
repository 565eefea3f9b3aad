import { SIZE } from './layout.ts';

/**
 * ioctl requests of the KVM API (Linux, Documentation/virt/kvm/api.rst; numbers from include/uapi/linux/kvm.h), put
 * together as include/uapi/asm-generic/ioctl.h does: direction, size of the argument, type, number.
 */
const KVMIO = 0xae;
const NONE = 0;
const WRITE = 1;
const READ = 2;

function request(direction: number, number: number, size: number): number {
  return ((direction << 30) | (size << 16) | (KVMIO << 8) | number) >>> 0;
}

const io = (number: number): number => request(NONE, number, 0);
/** The kernel reads the argument. */
const iow = (number: number, size: number): number => request(WRITE, number, size);
/** The kernel writes the argument. */
const ior = (number: number, size: number): number => request(READ, number, size);
const iowr = (number: number, size: number): number => request(READ | WRITE, number, size);

/** On the descriptor of /dev/kvm. */
export const SYSTEM_IOCTL = {
  getApiVersion: io(0x00),
  createVm: io(0x01),
  checkExtension: io(0x03),
  getVcpuMmapSize: io(0x04),
  getSupportedCpuid: iowr(0x05, SIZE.cpuidHeader),
} as const;

/** On a VM's descriptor. */
export const VM_IOCTL = {
  checkExtension: io(0x03),
  createVcpu: io(0x41),
  setUserMemoryRegion: iow(0x46, SIZE.memoryRegion),
  setTssAddress: io(0x47),
  setIdentityMapAddress: iow(0x48, 8),
  enableCap: iow(0xa3, SIZE.enableCap),
  setMsrFilter: iow(0xc6, SIZE.msrFilter),
  getStatsFd: io(0xce),
} as const;

/** On a vCPU's descriptor. */
export const VCPU_IOCTL = {
  run: io(0x80),
  getRegs: ior(0x81, SIZE.regs),
  setRegs: iow(0x82, SIZE.regs),
  getSregs: ior(0x83, SIZE.sregs),
  setSregs: iow(0x84, SIZE.sregs),
  interrupt: iow(0x86, 4),
  getMsrs: iowr(0x88, SIZE.msrsHeader),
  setMsrs: iow(0x89, SIZE.msrsHeader),
  setSignalMask: iow(0x8b, SIZE.signalMaskHeader),
  setCpuid2: iow(0x90, SIZE.cpuidHeader),
  nmi: io(0x9a),
  getVcpuEvents: ior(0x9f, SIZE.vcpuEvents),
  setVcpuEvents: iow(0xa0, SIZE.vcpuEvents),
  getDebugRegs: ior(0xa1, SIZE.debugRegs),
  setDebugRegs: iow(0xa2, SIZE.debugRegs),
  setTscKhz: io(0xa2),
  getTscKhz: io(0xa3),
  getXsave: ior(0xa4, SIZE.xsave),
  setXsave: iow(0xa5, SIZE.xsave),
  getStatsFd: io(0xce),
  setDeviceAttr: iow(0xe1, SIZE.deviceAttr),
  getDeviceAttr: iow(0xe2, SIZE.deviceAttr),
} as const;

/** Capabilities (KVM_CAP_*) for KVM_CHECK_EXTENSION and KVM_ENABLE_CAP. */
export const CAP = {
  userMemory: 3,
  setTssAddress: 4,
  extCpuid: 7,
  nrMemslots: 10,
  syncMmu: 16,
  userNmi: 22,
  setIdentityMapAddress: 37,
  internalErrorData: 40,
  vcpuEvents: 41,
  debugRegs: 50,
  xsave: 55,
  tscControl: 60,
  syncRegs: 74,
  readonlyMemory: 81,
  vcpuAttributes: 127,
  immediateExit: 136,
  userSpaceMsr: 188,
  msrFilter: 189,
  binaryStatsFd: 203,
  exitOnEmulationFailure: 204,
  xsave2: 208,
} as const;

export const API_VERSION = 12;
