import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { benchScript } from '../rows.ts';
import { PeerMissingError, type Launch, type Peer, type PeerOptions } from './peer.ts';

/** Programs the rows use, as links to BusyBox. */
const APPLETS = ['awk', 'bzip2', 'cat', 'dd', 'gzip', 'head', 'md5sum', 'sha256sum', 'sleep', 'sort'];

/** The guest's own BusyBox on this machine, with the same script. @throws PeerMissingError */
export async function findNative({ temporary, memory, rows }: PeerOptions): Promise<Peer> {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new PeerMissingError('guest programs run natively on x86-64 Linux only');
  }
  return {
    name: 'native',
    title: 'native',
    guests: ['i386', 'amd64'],
    async launch({ name, busybox, text, nothing }): Promise<Launch> {
      const programs = join(temporary, `native-${name}`);
      const work = join(memory, `work-${name}`);
      for (const directory of [programs, work]) {
        await rm(directory, { recursive: true, force: true });
        await mkdir(directory, { recursive: true });
      }
      for (const applet of APPLETS) await symlink(busybox, join(programs, applet));
      await writeFile(join(programs, 'nothing'), nothing, { mode: 0o755 });
      await writeFile(join(work, 'text'), text);
      const script = join(programs, 'script');
      await writeFile(script, benchScript(rows, { work, programs }));
      return { command: busybox, args: ['sh', script], env: { PATH: programs }, boots: false };
    },
  };
}
