import { I32 } from '../../../wasm/opcodes.ts';
import type { ModuleWriter } from '../../../wasm/writer.ts';

/** What translated code calls: indices of the functions a module of regions imports, and of the type of its own. */
export interface RegionImports {
  /** (ENTRY) -> REGION code. */
  regionType: number;
  /** () -> (): makes the flags' words from their deferred form (wasm, from the interpreter's module). */
  deferredFlags: number;
  /**
   * (linear low, linear high, size | ACCESS_INFO, micro-op) -> arena address where the access may be done, the TLB entry
   * filled; -1 when the interpreter must do it.
   */
  locateLoad: number;
  locateStore: number;
  /**
   * The same parameters, for an access that is done in TypeScript, its value in CTL.slowValue or slowWide -> 0 to go on,
   * 1 when nothing was done, 2 to leave for the interpreter after the operation.
   */
  slowLoad: number;
  slowStore: number;
  /** () -> ENTRY of the region at RIP, 0 where none is known (emitRegionLookup). */
  regionLookup: number;
  /** (micro-op) -> whether a run of string iterations is done, or its callout must look at it (emitStringRun). */
  stringRun: number;
  /** (micro-op) -> whether IRET is done, or its callout must look at it (emitInterruptReturn). */
  interruptReturn: number;
  /** (micro-op) -> the same of MOV from a control register (emitControlRead). */
  controlRead: number;
  /** Quick, each with its parameters -> whether it did all there is to do (emitQuick). */
  loadSegment: number;
  sysenter: number;
  sysexit: number;
  syscall: number;
  sysret: number;
  /** (micro-op) -> the same of comparisons of strings (emitStringCompare). */
  compareStrings: number;
  /** (callout id, micro-op) -> 0 to go on, or what the region returns (REGION), CTL.exitUop set. */
  callout: number;
}

/** The same as values, for instantiation. */
export type RegionImportValues = Record<Exclude<keyof RegionImports, 'regionType'>, WebAssembly.ImportValue>;

export function declareRegionImports(module: ModuleWriter): RegionImports {
  return {
    regionType: module.functionType([I32], [I32]),
    deferredFlags: module.importFunction('deferredFlags', [], []),
    locateLoad: module.importFunction('locateLoad', [I32, I32, I32, I32], [I32]),
    locateStore: module.importFunction('locateStore', [I32, I32, I32, I32], [I32]),
    slowLoad: module.importFunction('slowLoad', [I32, I32, I32, I32], [I32]),
    slowStore: module.importFunction('slowStore', [I32, I32, I32, I32], [I32]),
    regionLookup: module.importFunction('regionLookup', [], [I32]),
    stringRun: module.importFunction('stringRun', [I32], [I32]),
    interruptReturn: module.importFunction('interruptReturn', [I32], [I32]),
    controlRead: module.importFunction('controlRead', [I32], [I32]),
    compareStrings: module.importFunction('compareStrings', [I32], [I32]),
    loadSegment: module.importFunction('loadSegment', [I32, I32], [I32]),
    sysenter: module.importFunction('sysenter', [], [I32]),
    sysexit: module.importFunction('sysexit', [], [I32]),
    syscall: module.importFunction('syscall', [], [I32]),
    sysret: module.importFunction('sysret', [I32, I32], [I32]),
    callout: module.importFunction('callout', [I32, I32], [I32]),
  };
}
