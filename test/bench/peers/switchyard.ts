import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ARENA } from '../../../src-core/machine/arena.ts';
import { CommandError, commandExists, runCommand } from '../../../src-main/firstguest/command.ts';
import { sourceEnvironment, VM_NODE_FLAGS, vmEnvironment } from '../../../src-main/vm-process-options.mjs';
import { GUEST_MEMORY_MIB, KERNEL_PARAMETERS } from '../guests.ts';
import { RAM_SIZE, root, type Peer, type PeerOptions } from './peer.ts';

/** This tree's own command line. */
export async function findSwitchyard({ cliArguments, signal }: PeerOptions): Promise<Peer> {
  const version = await commitName(signal);
  return {
    name: 'switchyard',
    title: ['Switchyard', ...version, ...cliArguments].join(' '),
    guests: ['i386', 'amd64'],
    launch: ({ kernel, initrd }) => ({
      command: process.execPath,
      args: [
        ...VM_NODE_FLAGS,
        join(root, 'src-main/cli.ts'),
        'run',
        ...['--kernel', kernel, '--initrd', initrd, '--append', KERNEL_PARAMETERS],
        ...['--memory', String(GUEST_MEMORY_MIB), '--no-reboot', ...cliArguments],
      ],
      env: { ...sourceEnvironment(), ...vmEnvironment() },
      boots: true,
      ram: { mappingSize: ARENA.ram + RAM_SIZE, offset: ARENA.ram, size: RAM_SIZE },
    }),
  };
}

/** The commit, with a plus sign when the sources differ from it; nothing where git cannot tell. */
async function commitName(signal: AbortSignal): Promise<string[]> {
  if (!existsSync(join(root, '.git')) || !(await commandExists('git'))) return [];
  const git = (...args: string[]): Promise<string> => runCommand('git', ['-C', root, ...args], { signal });
  try {
    const commit = (await git('rev-parse', '--short', 'HEAD')).trim();
    const changes = await git('status', '--porcelain', '--', 'src-core', 'src-main');
    return [changes === '' ? commit : `${commit}+`];
  } catch (error) {
    if (error instanceof CommandError) return [];
    throw error;
  }
}
