/** Importing this defines every IR operation. */
import './arithmetic.ts';
import './bits.ts';
import './control.ts';
import './float-sse.ts';
import './float-x87-arithmetic.ts';
import './float-x87-moves.ts';
import './float.ts';
import './memory.ts';
import './simd.ts';
import './system.ts';
import './system-flags.ts';
