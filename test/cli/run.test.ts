import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { temporaryDirectory } from '../host/support.ts';
import * as guest from '../support/tiny-guest.ts';
import { cli, cliRun } from './cli.ts';

let directory: ReturnType<typeof temporaryDirectory>;
beforeAll(() => (directory = temporaryDirectory()));
afterAll(() => directory.remove());

const at = (name: string): string => join(directory.path, name);
let images = 0;
/** Writes a kernel made of steps; gives its path. */
function kernel(...steps: readonly number[][]): string {
  const path = at(`kernel-${images++}`);
  writeFileSync(path, guest.tinyGuest(...steps));
  return path;
}

describe('how a run ends', () => {
  test('power-off: 0', async () => {
    const ended = await cliRun(['--kernel', kernel(guest.print('hello\n'), guest.powerOff, guest.halt)]);
    expect(ended).toEqual({ code: 0, stdout: 'hello\n', stderr: '' });
  });

  test.each([
    [0, 1],
    [3, 7],
    [0x42, 0x85],
  ])('isa-debug-exit with %i: %i', async (value, code) => {
    const ended = await cliRun(['--kernel', kernel(guest.debugExit(value), guest.halt), '--debug-exit']);
    expect(ended.code).toBe(code);
  });

  test('without --debug-exit the port does nothing', async () => {
    const ended = await cliRun(['--kernel', kernel(guest.debugExit(3), guest.powerOff, guest.halt)]);
    expect(ended.code).toBe(0);
  });

  test('reset and triple fault with --no-reboot: 3', async () => {
    const reset = await cliRun(['--kernel', kernel(guest.reset, guest.halt), '--no-reboot']);
    expect(reset).toMatchObject({ code: 3, stderr: 'switchyard: the guest reset the machine\n' });
    const fault = await cliRun(['--kernel', kernel(guest.tripleFault), '--no-reboot']);
    expect(fault).toMatchObject({ code: 3 });
    expect(fault.stderr).toContain('triple fault');
  });

  test('without --no-reboot a reset boots again', async () => {
    const args = ['--kernel', kernel(guest.print('boot\n'), guest.reset), '--exit-on', 'boot\nboot\nboot\n'];
    expect((await cliRun(args)).code).toBe(0);
  });

  test('--exit-on: 0 as soon as the text is out, on either port', async () => {
    const first = kernel(guest.print('login: '), guest.loop);
    expect(await cliRun(['--kernel', first, '--exit-on', 'login:'])).toMatchObject({
      code: 0,
      stdout: 'login: ',
    });
    const second = kernel(guest.printSecond('ready'), guest.loop);
    expect((await cliRun(['--kernel', second, '--exit-on', 'ready'])).code).toBe(0);
  });

  test('timeout: 124, whether the guest is busy or idle', async () => {
    for (const end of [guest.loop, guest.halt]) {
      const ended = await cliRun(['--kernel', kernel(end), '--timeout', '0.5']);
      expect(ended).toMatchObject({ code: 124, stderr: 'switchyard: the guest was not done after 0.5 s\n' });
    }
  });

  test('a signal: 128 and its number', async () => {
    const child = spawn(process.execPath, [cli, 'run', '--kernel', kernel(guest.print('up'), guest.loop)], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    child.stdout.once('data', () => child.kill('SIGTERM'));
    expect(await new Promise((resolve) => child.on('exit', resolve))).toBe(143);
  });
});

describe('input and output', () => {
  test('stdin reaches the guest, more than a FIFO holds at once', async () => {
    const text = 'abcdefghijklmnoprstuvwxyz 0123456789\n'.repeat(300);
    const ended = await cliRun(['--kernel', kernel(guest.echo, guest.powerOff, guest.halt)], `${text}q`);
    expect(ended).toEqual({ code: 0, stdout: `${text}q`, stderr: '' });
  });

  test('every output goes where it was told', async () => {
    const image = kernel(
      guest.print('one'),
      guest.printSecond('two'),
      guest.writePort(0xe9, 0x21),
      guest.writePort(0x80, 0x55),
      guest.writePort(0x402, 0x0a),
      guest.powerOff,
      guest.halt,
    );
    const files = ['--serial', `file:${at('s1')}`, '--serial2', `file:${at('s2')}`, '--debugcon', at('d')];
    const ports = ['--log-port', `0x80=${at('p80')}`, '--log-port', `0x402=${at('p402')}`];
    expect(await cliRun(['--kernel', image, ...files, ...ports])).toEqual({
      code: 0,
      stdout: '',
      stderr: '',
    });
    const contents = ['s1', 's2', 'd', 'p80', 'p402'].map((name) => readFileSync(at(name), 'latin1'));
    expect(contents).toEqual(['one', 'two', '!', 'U', '\n']);
  });

  test('--serial none is silent', async () => {
    const image = kernel(guest.print('unheard'), guest.powerOff, guest.halt);
    expect((await cliRun(['--kernel', image, '--serial', 'none'])).stdout).toBe('');
  });

  test('--stats tells exits and how it ended', async () => {
    const args = [
      '--kernel',
      kernel(guest.print('12345'), guest.powerOff, guest.halt),
      '--stats',
      at('stats.json'),
    ];
    expect((await cliRun([...args, '--clock', 'icount'])).code).toBe(0);
    const stats = JSON.parse(readFileSync(at('stats.json'), 'utf8')) as Record<string, unknown>;
    expect(stats).toMatchObject({
      format: 'switchyard-statistics',
      version: 1,
      engine: 'software',
      end: { reason: 'powerOff', code: 0 },
      reasons: { portIo: { count: 6 } },
      details: { portIo: { '0x3f8': 5 } },
    });
  });

  test('--engine hardware --mmu runs on the model, whose figures are marked as modelled', async () => {
    const stats = at('modelled.json');
    const options = ['--engine', 'hardware', '--mmu', 'shadow', '--profile', 'core', '--stats', stats];
    const ended = await cliRun(['--kernel', kernel(guest.powerOff, guest.halt), ...options]);
    expect(ended.code, ended.stderr).toBe(0);
    const { engine, model, reasons } = JSON.parse(readFileSync(stats, 'utf8')) as Record<string, unknown>;
    expect(engine).toBe('hardware');
    expect(model).toMatchObject({ modelled: true, mmu: 'shadow', profile: { name: 'core' } });
    expect(model).toHaveProperty('exitCodes.VMEXIT_IOIO');
    expect(reasons).toHaveProperty('translation.count', 0);
  });

  test('a reader that goes away ends the run quietly', () => {
    const image = kernel(guest.print('x'.repeat(50)), guest.reset);
    const command = `"$1" "$2" run --kernel "$3" | head -c 10; echo "code \${PIPESTATUS[0]}"`;
    const { stdout, stderr } = spawnSync('bash', ['-c', command, 'bash', process.execPath, cli, image], {
      encoding: 'utf8',
      timeout: 20_000,
    });
    expect(stdout).toBe('xxxxxxxxxxcode 141\n');
    expect(stderr).toBe('');
  });
});

describe('bad input ends with 2 and one clear line', () => {
  const refused = async (args: string[], message: RegExp): Promise<void> => {
    const ended = await cliRun(args);
    expect(ended.stderr).toMatch(message);
    expect(ended.stderr.trimEnd()).not.toContain('\n');
    expect(ended).toMatchObject({ code: 2, stdout: '' });
  };

  test('kernels', async () => {
    writeFileSync(at('text'), 'Hello, I am a text file.\n');
    writeFileSync(at('empty'), '');
    const elf = Buffer.alloc(8192);
    elf.set([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]);
    elf.set(guest.tinyGuest().subarray(0, 12), 4096);
    elf.writeUInt32LE(0, 4096 + 4);
    elf.writeUInt32LE(-0x1badb002 >>> 0, 4096 + 8);
    writeFileSync(at('broken.elf'), elf);
    await refused(['--kernel', at('missing')], /missing does not exist/);
    await refused(['--kernel', directory.path], /is a directory/);
    await refused(['--kernel', at('empty')], /is empty/);
    await refused(['--kernel', at('text')], /text is a text file/);
    await refused(['--kernel', at('broken.elf')], /switchyard: kernel: .*ELF/);
  });

  test('an initrd larger than memory', async () => {
    writeFileSync(at('initrd'), 'x');
    truncateSync(at('initrd'), 64 * 1024 * 1024);
    writeFileSync(at('bzImage'), guest.linuxHeader());
    await refused(
      ['--kernel', at('bzImage'), '--initrd', at('initrd'), '--memory', '32'],
      /initrd: has 64 MiB/,
    );
  });

  test('memory', async () => {
    for (const memory of ['0', '10485760']) {
      await refused(['--kernel', kernel(), '--memory', memory], /--memory must be a whole number of MiB/);
    }
  });

  test('outputs that cannot be written', async () => {
    await refused(
      ['--kernel', kernel(guest.loop), '--serial', 'file:/no/such/file'],
      /--serial: cannot write/,
    );
    await refused(['--kernel', kernel(guest.loop), '--stats', directory.path], /--stats: cannot write/);
  });

  test('an engine that cannot have the clock', async () => {
    await refused(
      ['--kernel', kernel(guest.loop), '--engine', 'hardware', '--clock', 'icount'],
      /hardware engine is not available/,
    );
  });
});

describe.skipIf(!existsSync('/usr/bin/script'))('on a terminal', () => {
  /** Runs a shell command under a pseudo-terminal of its own; types each text once what it waits for is shown. */
  function terminal(command: string, typing: { after: string; type: string }[] = []): Promise<string> {
    return new Promise((resolve, reject) => {
      const child = spawn('script', ['-qec', command, '/dev/null'], { stdio: 'pipe' });
      let shown = '';
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        shown += text;
        while (typing[0] && shown.includes(typing[0].after)) child.stdin.write(typing.shift()?.type ?? '');
      });
      child.on('error', reject);
      child.on('close', () => resolve(shown));
    });
  }
  const command = (image: string, ...args: string[]): string =>
    `${process.execPath} ${cli} run --kernel ${image} ${args.join(' ')}; echo "code $?"; stty -a`;

  test('Ctrl-] leaves, Ctrl-C goes to the guest, and the terminal is as it was', async () => {
    const image = kernel(guest.print('up'), guest.echo);
    const shown = await terminal(command(image), [
      { after: 'up', type: 'ab\x03' },
      { after: 'upab\x03', type: '\x1d' },
    ]);
    expect(shown).toContain('Ctrl-] leaves the console');
    expect(shown).toContain('upab\x03');
    expect(shown).toContain('code 0');
    expect(shown).toMatch(/(?<!-)icanon/);
    expect(shown).toMatch(/(?<!-)isig/);
  });

  test('Ctrl-^ has another engine go on, or says why not', async () => {
    const image = kernel(guest.print('up'), guest.echo);
    const shown = await terminal(command(image, '--kvm-device', at('missing'), '--switch-every', '3600000'), [
      { after: 'up', type: 'a\x1e' },
      { after: 'stays on software', type: 'b' },
      { after: 'b', type: '\x1d' },
    ]);
    expect(shown).toContain('switchyard: the guest stays on software: This host has no ');
    expect(shown).toContain('code 0');
  });

  test.each([
    ['a timeout', guest.loop, ['--timeout', '0.3'], 124],
    ['the guest', guest.powerOff, [], 0],
    ['an output that cannot be written', guest.loop, ['--stats', '/no/such/file'], 2],
  ])('the terminal is as it was after %s', async (_name, end, args, code) => {
    const shown = await terminal(command(kernel(end), ...args));
    expect(shown).toContain(`code ${code}`);
    expect(shown).toMatch(/(?<!-)icanon/);
  });
});
