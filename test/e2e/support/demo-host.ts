/** The real host and server shell with demo guests (demo-vm-process.ts): `node test/e2e/support/demo-host.ts` to look at the window. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ApiClient, type Transport } from '../../../src-core/protocol/client.ts';
import { DEFAULT_VM_CONFIG } from '../../../src-core/protocol/vm.ts';
import { openHost, type OpenHost } from '../../../src-main/host/open.ts';
import { forkLauncher } from '../../../src-main/host/vm-process-handle.ts';
import { WindowServer } from '../../../src-main/server/server.ts';
import { versions } from '../../../src-main/versions.ts';
import { partialProbe } from '../../support/fake-engines.ts';
import { fakeLinux } from '../../firmware/images.ts';

export interface DemoHost extends OpenHost {
  server: WindowServer;
  /** The window's address, token included. */
  address: string;
  /** Directory with files to boot from: `vmlinuz` (passes for a kernel), `initrd.gz`, `large.gz`, `notes.txt`. */
  files: string;
  faults: Error[];
  /** The API without a window. */
  api: ApiClient;
  /** Sees to it that there is a VM of this name, and that it runs, whatever earlier tests left. */
  run: (name: string) => Promise<void>;
  stop: () => Promise<void>;
}

/** @param probe what the host's hardware is said to do: by default all but what Linux needs of it */
export async function startDemoHost(
  directory = mkdtempSync(join(tmpdir(), 'switchyard-e2e-')),
  probe = partialProbe('paging32', 'ring3Syscall'),
): Promise<DemoHost> {
  const files = mkdtempSync(join(tmpdir(), 'switchyard-files-'));
  writeFileSync(join(files, 'vmlinuz'), fakeLinux());
  writeFileSync(join(files, 'initrd.gz'), Buffer.alloc(8 * 1024 * 1024, 1));
  writeFileSync(join(files, 'notes.txt'), 'This is no kernel.\n'.repeat(100));
  // Sparse: it takes no room.
  writeFileSync(join(files, 'large.gz'), '');
  truncateSync(join(files, 'large.gz'), 100 * 1024 * 1024);
  const faults: Error[] = [];
  const opened = openHost(directory, {
    kind: 'server',
    versions: versions(),
    launch: forkLauncher(fileURLToPath(new URL('./demo-vm-process.ts', import.meta.url))),
    probe: () => Promise.resolve(probe),
    onFault: (error) => faults.push(error),
  });
  const server = new WindowServer(
    opened.host,
    fileURLToPath(new URL('../../../out/renderer', import.meta.url)),
  );
  const address = await server.listen(0);
  const transport: Transport = {
    send: (message) => void connection.receive(message),
    onMessage: () => undefined,
    onClose: () => undefined,
  };
  const connection = opened.host.connect((message) => transport.onMessage(message));
  const api = new ApiClient(transport);
  const run = async (name: string): Promise<void> => {
    const config = { ...DEFAULT_VM_CONFIG, name, kernel: join(files, 'vmlinuz') };
    const known = (await api.call('listVms', {})).find((vm) => vm.config.name === name);
    const vm = known
      ? await api.call('updateVm', { vmId: known.id, config })
      : await api.call('createVm', { config });
    if (vm.state === 'stopped' || vm.state === 'crashed') await api.call('start', { vmId: vm.id });
    else if (vm.state === 'paused') await api.call('resume', { vmId: vm.id });
  };
  const stop = async (): Promise<void> => {
    server.close();
    await opened.close();
    for (const path of [directory, files])
      rmSync(path, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  };
  return { ...opened, server, address, files, faults, api, run, stop };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const demo = await startDemoHost();
  process.stdout.write(`${demo.address}\nfiles: ${demo.files}\n`);
  process.once('SIGINT', () => void demo.stop().then(() => process.exit(0)));
}
