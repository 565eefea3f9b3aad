import { describe, expect, test } from 'vitest';
import { parseRunArguments, UsageError } from '../../src-main/cli/arguments.ts';

describe('run', () => {
  test('takes everything the issue states', () => {
    const line =
      '--kernel k --initrd i --append x=1 --memory 64 --engine software --serial file:s --serial2 none --debugcon d ' +
      '--log-port 0x402=a --log-port 128=b --debug-exit --exit-on TEXT --timeout 1.5 --clock icount --stats t --no-reboot';
    expect(parseRunArguments(line.split(' '))).toEqual({
      kernel: 'k',
      initrd: 'i',
      modules: [],
      append: 'x=1',
      firmware: undefined,
      memoryMib: 64,
      engine: 'software',
      hardware: {},
      strict: false,
      switchEveryMs: undefined,
      serial: { kind: 'file', path: 's' },
      serial2: { kind: 'none' },
      debugcon: 'd',
      logPorts: [
        { port: 0x402, path: 'a' },
        { port: 128, path: 'b' },
      ],
      debugExit: true,
      exitOn: 'TEXT',
      timeoutSeconds: 1.5,
      clock: 'icount',
      stats: 't',
      noReboot: true,
      translator: { tier: 1, chaining: true, adaptive: true },
    });
  });

  test('has its defaults', () => {
    expect(parseRunArguments(['--kernel', 'k', '--module', 'a', '--module', 'b'])).toMatchObject({
      modules: ['a', 'b'],
      append: '',
      memoryMib: 256,
      engine: 'software',
      serial: { kind: 'stdio' },
      serial2: { kind: 'none' },
      clock: 'host',
      debugExit: false,
      noReboot: false,
      translator: { tier: 1, chaining: true, adaptive: true },
      exitOn: undefined,
      timeoutSeconds: undefined,
    });
  });

  test('takes what engines are told', () => {
    expect(
      parseRunArguments('--kernel k --engine hardware --strict --kvm-device d --switch-every 50'.split(' ')),
    ).toMatchObject({ engine: 'hardware', strict: true, hardware: { device: 'd' }, switchEveryMs: 50 });
    expect(parseRunArguments('--kernel k --engine hardware --mmu nested'.split(' '))).toMatchObject({
      hardware: { accelerator: 'model', mmu: 'nested' },
      strict: false,
    });
  });

  test.each([
    ['', 'nothing to boot'],
    ['--initrd i', 'nothing to boot'],
    ['--firmware f --initrd i', '--initrd needs --kernel'],
    ['--kernel k --firmware f', '--kernel and --firmware'],
    ['--kernel k --memory 0', '--memory must be'],
    ['--kernel k --memory 10485760', '--memory must be'],
    ['--kernel k --memory 1e2', '--memory must be'],
    ['--kernel k --memory=-5', '--memory must be'],
    ['--kernel k --engine jet', '--engine must be software or hardware'],
    ['--kernel k --strict', '--strict needs --engine hardware'],
    ['--kernel k --accelerator kvm', '--accelerator needs --engine hardware'],
    ['--kernel k --engine hardware --accelerator kvm --mmu nested', '--mmu belongs to the model'],
    ['--kernel k --switch-every 0', '--switch-every must be'],
    ['--kernel k --switch-every 5 --clock icount', '--switch-every needs --clock host'],
    ['--kernel k --clock sun', '--clock must be host or icount'],
    ['--kernel k --serial file:', '--serial must be'],
    ['--kernel k --serial2 stdio', 'cannot both be stdio'],
    ['--kernel k --log-port 0x12345=f', '--log-port must be'],
    ['--kernel k --log-port 70000=f', '--log-port must be'],
    ['--kernel k --log-port 0x80', '--log-port must be'],
    ['--kernel k --timeout 0', '--timeout must be'],
    ['--kernel k --timeout soon', '--timeout must be'],
    ['--kernel k --address-spaces swap', '--address-spaces must be flush or keep'],
    ['--kernel k --exit-on=', '--exit-on needs'],
    ['--kernel k stray', 'unexpected argument "stray"'],
    ['--kernel k --warp', '--warp'],
    ['--kernel', '--kernel'],
  ])('refuses "%s" in one clear line', (line, message) => {
    let error: unknown;
    try {
      parseRunArguments(line === '' ? [] : line.split(' '));
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(UsageError);
    expect((error as UsageError).message).toContain(message);
    expect((error as UsageError).message).not.toContain('\n');
  });
});
