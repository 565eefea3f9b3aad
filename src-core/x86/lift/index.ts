/** Importing this registers how every instruction is lifted. */
import './bcd.ts';
import './control.ts';
import './far.ts';
import './integer.ts';
import './ports.ts';
import './segments.ts';
import './sse-float.ts';
import './sse-integer.ts';
import './sse-move.ts';
import './string.ts';
import './system-flags.ts';
import './system.ts';
import './x87.ts';
