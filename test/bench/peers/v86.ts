import { existsSync } from 'node:fs';
import { cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AptFetcher, unpack } from '../../../src-main/firstguest/apt.ts';
import { runCommand } from '../../../src-main/firstguest/command.ts';
import { GUEST_MEMORY_MIB, KERNEL_PARAMETERS } from '../guests.ts';
import { PeerMissingError, root, type Peer, type PeerOptions } from './peer.ts';

/** v86 from npm, in Node, with Debian's SeaBIOS. */
export async function findV86({ cache, signal, say }: PeerOptions): Promise<Peer> {
  const directory = await installV86(cache, signal, say);
  const [bios, vgaBios] = await findSeaBios(cache, signal);
  const version = await runCommand(
    process.execPath,
    ['-p', `require(${JSON.stringify(join(directory, 'package.json'))}).version`],
    { signal },
  );
  return {
    name: 'v86',
    title: `v86 ${version.trim().replace(/\+.*/, '')}`,
    guests: ['i386'],
    launch: ({ kernel, initrd }) => ({
      command: process.execPath,
      args: [
        join(root, 'test/bench/peers/v86-process.ts'),
        ...[directory, bios, vgaBios, kernel, initrd, String(GUEST_MEMORY_MIB), KERNEL_PARAMETERS],
      ],
      boots: true,
    }),
  };
}

/** Installs the version that v86/package-lock.json names. @returns the package's directory. */
async function installV86(cache: string, signal: AbortSignal, say: (line: string) => void): Promise<string> {
  const directory = join(cache, 'v86');
  const source = join(root, 'test/bench/peers/v86');
  await mkdir(directory, { recursive: true });
  const wanted = await readFile(join(source, 'package-lock.json'), 'utf8');
  const installed = join(directory, 'node_modules/.installed');
  const result = join(directory, 'node_modules/v86');
  if (existsSync(installed) && (await readFile(installed, 'utf8')) === wanted) return result;
  say('v86: installing from npm');
  for (const file of ['package.json', 'package-lock.json'])
    await cp(join(source, file), join(directory, file));
  try {
    await runCommand('npm', ['ci', '--prefix', directory, '--no-audit', '--no-fund', '--loglevel=error'], {
      cwd: directory,
      signal,
    });
  } catch (error) {
    if (signal.aborted || !(error instanceof Error)) throw error;
    throw new PeerMissingError(`v86 cannot be installed: ${error.message}`);
  }
  await writeFile(installed, wanted);
  return result;
}

/** SeaBIOS and its VGA BIOS: the installed ones, or those of the package. */
async function findSeaBios(cache: string, signal: AbortSignal): Promise<[string, string]> {
  const names = ['bios.bin', 'vgabios-stdvga.bin'] as const;
  const placed = (directory: string): [string, string] => [
    join(directory, names[0]),
    join(directory, names[1]),
  ];
  const system = placed('/usr/share/seabios');
  if (system.every((path) => existsSync(path))) return system;
  const directory = join(cache, 'seabios');
  const fetched = placed(join(directory, 'usr/share/seabios'));
  if (fetched.every((path) => existsSync(path))) return fetched;
  const fetcher = new AptFetcher(cache, 'amd64', signal);
  await fetcher.prepare(['seabios']);
  const [deb = ''] = await fetcher.download(['seabios'], () => undefined);
  await unpack(
    deb,
    directory,
    names.map((name) => `./usr/share/seabios/${name}`),
    signal,
  );
  return fetched;
}
