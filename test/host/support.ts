import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ApiEvent, EventData } from '../../src-core/protocol/api.ts';
import { ApiClient, type Transport } from '../../src-core/protocol/client.ts';
import { DEFAULT_VM_CONFIG, type Vm, type VmConfig, type VmState } from '../../src-core/protocol/vm.ts';
import type { HardwareProbe } from '../../src-core/protocol/hardware-probe.ts';
import type { Host } from '../../src-main/host/host.ts';
import { unableProbe } from '../support/fake-engines.ts';
import { halt, tinyGuest } from '../support/tiny-guest.ts';
import { openHost, type OpenHost } from '../../src-main/host/open.ts';
import { forkLauncher } from '../../src-main/host/vm-process-handle.ts';

/** A directory that goes away with the test. */
export function temporaryDirectory(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'switchyard-test-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

export const fakeVmProcess = fileURLToPath(new URL('./fake-vm-process.ts', import.meta.url));

/** A host whose VMs are fake processes. Faults are collected. */
export function openTestHost(
  dataDirectory: string,
  probe: HardwareProbe = unableProbe,
): OpenHost & { faults: Error[] } {
  const faults: Error[] = [];
  const opened = openHost(dataDirectory, {
    kind: 'server',
    versions: {},
    launch: forkLauncher(fakeVmProcess),
    probe: () => Promise.resolve(probe),
    onFault: (error) => faults.push(error),
  });
  return { ...opened, faults };
}

/** A client connected to a host in the same process, the messages passing through JSON as they would on a socket. */
export function connectClient(host: Host): TestClient {
  const transport: Transport = {
    send: (message) => void connection.receive(JSON.parse(JSON.stringify(message))),
    onMessage: () => undefined,
    onClose: () => undefined,
  };
  const connection = host.connect((message) => {
    const text = JSON.stringify(message);
    setImmediate(() => transport.onMessage(JSON.parse(text)));
  });
  return new TestClient(transport, () => {
    host.disconnect(connection);
    transport.onClose();
  });
}

/** A client that remembers every event, so that tests can wait for one that may have come already. */
export class TestClient extends ApiClient {
  readonly disconnect: () => void;
  readonly #events: { event: ApiEvent; data: unknown }[] = [];
  #wake: (() => void)[] = [];

  constructor(transport: Transport, disconnect: () => void) {
    super(transport);
    this.disconnect = disconnect;
    const names: ApiEvent[] = [
      'enginesChanged',
      'vmChanged',
      'vmRemoved',
      'vmCrashed',
      'snapshotsChanged',
      'statistics',
      'serial',
      'progress',
      'firstGuest',
      'hostClosing',
    ];
    for (const event of names) {
      this.on(event, (data) => {
        this.#events.push({ event, data });
        const wake = this.#wake;
        this.#wake = [];
        for (const resolve of wake) resolve();
      });
    }
  }

  /** All events of a kind so far. */
  seen<E extends ApiEvent>(event: E): EventData<E>[] {
    return this.#events.filter((entry) => entry.event === event).map(({ data }) => data as EventData<E>);
  }

  /** Waits until some event of a kind fits, among those that came already too. */
  async until<E extends ApiEvent>(
    event: E,
    fits: (data: EventData<E>) => boolean,
    limitMs = 10_000,
  ): Promise<EventData<E>> {
    const deadline = Date.now() + limitMs;
    for (;;) {
      const found = this.seen(event).find(fits);
      if (found) return found;
      if (Date.now() > deadline) throw new Error(`no fitting ${event} event within ${limitMs} ms`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 100);
        this.#wake.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  /** Waits until the VM's newest view has a state. */
  async untilState(vmId: string, state: VmState, limitMs = 10_000): Promise<Vm> {
    const deadline = Date.now() + limitMs;
    for (;;) {
      const vm = (await this.call('listVms', {})).find(({ id }) => id === vmId);
      if (vm?.state === state) return vm;
      if (Date.now() > deadline)
        throw new Error(`the VM did not become ${state} but is ${vm?.state ?? 'gone'}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** All serial text of a subscription, starting over at each replay. */
  serialText(subscription: number): string {
    let text = '';
    for (const data of this.seen('serial')) {
      if (data.subscription !== subscription) continue;
      text = data.kind === 'replay' ? data.text : text + data.text;
    }
    return text;
  }

  async untilSerial(subscription: number, wanted: string): Promise<void> {
    await this.until('serial', () => this.serialText(subscription).includes(wanted));
  }
}

/** A configuration whose kernel is a file in the given directory. */
export function testConfig(directory: string, changes: Partial<VmConfig> = {}): VmConfig {
  const kernel = join(directory, 'kernel');
  writeFileSync(kernel, tinyGuest(halt));
  return { ...DEFAULT_VM_CONFIG, name: 'Test', kernel, ...changes };
}

/** Waits until a condition holds. */
export async function eventually(condition: () => boolean, limitMs = 10_000): Promise<void> {
  const deadline = Date.now() + limitMs;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('the condition did not come true in time');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
