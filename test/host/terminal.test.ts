import { expect, test } from 'vitest';
import { SERIAL_WINDOW_CHARS } from '../../src-core/protocol/api.ts';
import { KeptTerminal, type SerialMessage } from '../../src-main/host/terminal.ts';

const bytes = (text: string): Uint8Array => Buffer.from(text, 'utf8');
/** The terminal has processed everything written so far, and its callbacks have run. */
const settled = (terminal: KeptTerminal): Promise<unknown> => terminal.serialize();
/** What a window's terminal would hold after these messages. */
const shown = (messages: SerialMessage[]): string =>
  messages.reduce((text, message) => (message.kind === 'replay' ? message.text : text + message.text), '');

test('characters cut in the middle by the guest come out whole', async () => {
  const terminal = new KeptTerminal(() => undefined);
  const messages: SerialMessage[] = [];
  terminal.subscribe((message) => messages.push(message));
  await settled(terminal);
  const euro = bytes('€');
  terminal.write(euro.subarray(0, 1), () => undefined);
  terminal.write(euro.subarray(1), () => undefined);
  await settled(terminal);
  expect(shown(messages)).toBe('€');
});

test('output that comes while a replay is being made is neither lost nor doubled', async () => {
  const terminal = new KeptTerminal(() => undefined);
  terminal.write(bytes('one '), () => undefined);
  const messages: SerialMessage[] = [];
  terminal.subscribe((message) => messages.push(message));
  terminal.write(bytes('two '), () => undefined);
  await settled(terminal);
  terminal.write(bytes('three'), () => undefined);
  await settled(terminal);
  expect(shown(messages)).toBe('one two three');
});

test('a restored screen reaches subscribers whose first replay is still under way', async () => {
  const terminal = new KeptTerminal(() => undefined);
  terminal.write(bytes('old'), () => undefined);
  const messages: SerialMessage[] = [];
  terminal.subscribe((message) => messages.push(message));
  terminal.restore('restored ');
  terminal.write(bytes('and new'), () => undefined);
  await settled(terminal);
  expect(shown(messages)).toBe('restored and new');
});

test('a slow subscriber gets a bounded share, and everything once it has caught up', async () => {
  const terminal = new KeptTerminal(() => undefined);
  const messages: SerialMessage[] = [];
  const subscription = terminal.subscribe((message) => messages.push(message));
  await settled(terminal);
  const line = `${'x'.repeat(70)}\r\n`;
  for (let i = 0; i < 10_000; i++) terminal.write(bytes(line), () => undefined);
  terminal.write(bytes('the end'), () => undefined);
  await settled(terminal);
  const sent = messages.reduce((sum, { text }) => sum + text.length, 0);
  expect(sent).toBeLessThanOrEqual(SERIAL_WINDOW_CHARS);
  subscription.acknowledge(sent);
  await settled(terminal);
  expect(messages.at(-1)?.kind).toBe('replay');
  expect(shown(messages)).toMatch(/the end$/);
});

test("the guest's questions are answered while no window is there, and left to the window otherwise", async () => {
  const answers: string[] = [];
  const terminal = new KeptTerminal((text) => answers.push(text));
  terminal.write(bytes('\x1b[6n'), () => undefined);
  await settled(terminal);
  expect(answers).toEqual(['\x1b[1;1R']);
  terminal.subscribe(() => undefined);
  terminal.write(bytes('\x1b[6n'), () => undefined);
  await settled(terminal);
  expect(answers).toHaveLength(1);
});
