/** Every system test guest. */
import { exceptions } from './exceptions.ts';
import { gates, gatesExternal } from './gates.ts';
import { privilege, privilegeByManual } from './privilege.ts';
import { paging32ByManual, pagingPaeByManual } from './paging-writes.ts';
import { paging32, paging64, pagingPae } from './paging.ts';
import { limits } from './limits.ts';
import { v8086 } from './v8086.ts';
import { longMode } from './longmode.ts';
import { longModeByManual } from './longmode-manual.ts';
import { selfModifyingCode } from './smc.ts';
import { debugging, debuggingByManual } from './debug.ts';
import { strings } from './strings.ts';
import { compareExchange16, floatingPoint, floatingPointErrors } from './fpu.ts';
import { timers } from './timers.ts';
import { realMode } from './realmode.ts';
import { tripleFault } from './triplefault.ts';
import type { SystemGuest } from './runtime/guest.ts';
import { segments } from './segments.ts';

export type { SystemGuest } from './runtime/guest.ts';

export const systemGuests: readonly SystemGuest[] = [
  exceptions,
  segments,
  gates,
  gatesExternal,
  privilege,
  privilegeByManual,
  paging32,
  pagingPae,
  paging32ByManual,
  pagingPaeByManual,
  limits,
  v8086,
  longMode,
  longModeByManual,
  paging64,
  selfModifyingCode,
  debugging,
  debuggingByManual,
  strings,
  floatingPoint,
  compareExchange16,
  floatingPointErrors,
  timers,
  realMode,
  tripleFault,
];
