import { join } from 'node:path';
import { ARENA } from '../../../src-core/machine/arena.ts';
import { runCommand } from '../../../src-main/firstguest/command.ts';
import { GUEST_MEMORY_MIB, KERNEL_PARAMETERS } from '../guests.ts';
import { RAM_SIZE, root, type Peer, type PeerOptions } from './peer.ts';

export async function findSwitchyard({ cliArguments, signal }: PeerOptions): Promise<Peer> {
  const commit = await runCommand('git', ['-C', root, 'rev-parse', '--short', 'HEAD'], { signal }).then(
    (output) => ` ${output.trim()}`,
    // A tree without its history has no name.
    () => '',
  );
  return {
    name: 'switchyard',
    title: ['Switchyard' + commit, ...cliArguments].join(' '),
    guests: ['i386', 'amd64'],
    launch: ({ kernel, initrd }) => ({
      command: process.execPath,
      args: [
        join(root, 'src-main/cli.ts'),
        'run',
        ...['--kernel', kernel, '--initrd', initrd, '--append', KERNEL_PARAMETERS],
        ...['--memory', String(GUEST_MEMORY_MIB), '--no-reboot', ...cliArguments],
      ],
      boots: true,
      ram: { mappingSize: ARENA.ram + RAM_SIZE, offset: ARENA.ram, size: RAM_SIZE },
    }),
  };
}
