import { runCommand } from '../../../src-main/firstguest/command.ts';
import { GUEST_MEMORY_MIB, KERNEL_PARAMETERS } from '../guests.ts';
import { PeerMissingError, RAM_SIZE, type Peer, type PeerOptions } from './peer.ts';

const QEMU = { i386: 'qemu-system-i386', amd64: 'qemu-system-x86_64' } as const;

/** The installed QEMU; as root it is installed where it is missing. */
export async function findQemu({ signal, say }: PeerOptions): Promise<Peer> {
  const version = async (): Promise<string | undefined> => {
    try {
      await runCommand(QEMU.i386, ['--version'], { signal });
      return /version (\S+)/.exec(await runCommand(QEMU.amd64, ['--version'], { signal }))?.[1];
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
      throw error;
    }
  };
  let found = await version();
  if (found === undefined && process.getuid?.() === 0) {
    say('qemu: installing qemu-system-x86');
    await runCommand('apt-get', ['install', '-y', '--no-install-recommends', 'qemu-system-x86'], { signal });
    found = await version();
  }
  if (found === undefined) {
    throw new PeerMissingError('QEMU is not installed: apt-get install qemu-system-x86, or leave it out');
  }
  return {
    name: 'qemu',
    title: `QEMU ${found} TCG`,
    guests: ['i386', 'amd64'],
    launch: ({ name, kernel, initrd }) => ({
      command: QEMU[name],
      args: [
        ...['-accel', 'tcg', '-smp', '1', '-m', String(GUEST_MEMORY_MIB), '-nographic', '-no-reboot'],
        ...['-nodefaults', '-serial', 'stdio', '-monitor', 'none'],
        ...['-kernel', kernel, '-initrd', initrd, '-append', KERNEL_PARAMETERS],
      ],
      boots: true,
      ram: { mappingSize: RAM_SIZE, offset: 0, size: RAM_SIZE },
    }),
  };
}
