/** Every system test guest. */
import { exceptions } from './exceptions.ts';
import type { SystemGuest } from './runtime/guest.ts';
import { segments } from './segments.ts';

export type { SystemGuest } from './runtime/guest.ts';

export const systemGuests: readonly SystemGuest[] = [exceptions, segments];
