import { SvelteMap } from 'svelte/reactivity';
import type {
  Command,
  CommandParams,
  CommandResult,
  EngineInfo,
  EventData,
  FirstGuestStatus,
  FirstGuestVariant,
  HostInfo,
} from '../../src-core/protocol/api.ts';
import { ApiClient, type Transport } from '../../src-core/protocol/client.ts';
import { ApiError } from '../../src-core/protocol/messages.ts';
import { describeEngine, type EngineName } from '../../src-core/protocol/engine.ts';
import type { Snapshot, Vm } from '../../src-core/protocol/vm.ts';
import { nanoseconds } from '../lib/format.ts';
import type { DialogRequest } from './dialogs.ts';
import { DEFAULT_SETTINGS, SETTINGS_KEY, settingsSchema, type Settings } from './settings.ts';
import { VmStatistics } from './statistics.svelte.ts';
import { applyTheme, rememberedTheme } from './theme.ts';
import { Toasts } from './toasts.svelte.ts';

/** Waits between attempts to reconnect; the last one repeats. */
const RECONNECT_WAITS_MS = [500, 1000, 2000, 4000, 5000];
/** How far back the curves are filled from the host's time series when a VM is first looked at. */
const HISTORY_MS = 60_000;
const SETTINGS_WRITE_DELAY_MS = 400;

export type Connection = 'connecting' | 'open' | 'lost' | 'failed';
export type VmTab = 'console' | 'exits' | 'translations' | 'snapshots' | 'details';

const STATE_ORDER: Record<Vm['state'], number> = {
  crashed: 0,
  running: 1,
  starting: 2,
  paused: 3,
  stopping: 4,
  stopped: 5,
};

/** Everything the window knows, and everything it can ask of the host. */
export class App {
  readonly #open: () => Promise<Transport>;
  #client: ApiClient | null = null;
  #reconnectTimer: ReturnType<typeof setTimeout> | undefined;
  #settingsTimer: ReturnType<typeof setTimeout> | undefined;
  #attempt = 0;
  /** The latest that the host told of its engines by itself. */
  #engines: EngineInfo[] | null = null;

  connection = $state<Connection>('connecting');
  /** Counts connections: what holds something of the host's (a subscription) starts again when it changes. */
  generation = $state(0);
  /** Why the window cannot work at all, shown as a page of its own. */
  failure = $state.raw<{ title: string; message: string; hint: string | undefined } | null>(null);
  hostClosing = $state(false);

  host = $state.raw<HostInfo | null>(null);
  readonly vms = new SvelteMap<string, Vm>();
  readonly snapshots = new SvelteMap<string, Snapshot[]>();
  readonly statistics = new SvelteMap<string, VmStatistics>();
  readonly progress = new SvelteMap<string, EventData<'progress'>>();
  firstGuest = $state.raw<FirstGuestStatus | null>(null);

  settings = $state.raw<Settings>({ ...DEFAULT_SETTINGS, theme: rememberedTheme() });
  selectedId = $state<string | null>(null);
  tab = $state<VmTab>('console');
  dialog = $state.raw<DialogRequest | null>(null);
  readonly toasts = new Toasts();
  /** Spoken by screen readers, politely. */
  announcement = $state('');

  /** Machines that events told of since the list of them was last asked for. */
  #touched = new Set<string>();

  readonly selected = $derived(this.selectedId === null ? undefined : this.vms.get(this.selectedId));
  readonly sortedVms = $derived.by(() => {
    const byName = (a: Vm, b: Vm): number =>
      a.config.name.localeCompare(b.config.name, undefined, { numeric: true }) || a.createdAt - b.createdAt;
    const orders = {
      name: byName,
      state: (a: Vm, b: Vm): number => STATE_ORDER[a.state] - STATE_ORDER[b.state] || byName(a, b),
      newest: (a: Vm, b: Vm): number => b.createdAt - a.createdAt,
    };
    return [...this.vms.values()].sort(orders[this.settings.sort]);
  });

  constructor(open: () => Promise<Transport>) {
    this.#open = open;
  }

  /** Connects, or connects again, and reads everything anew. Never rejects: it reports and retries. */
  async connect(): Promise<void> {
    clearTimeout(this.#reconnectTimer);
    if (this.connection !== 'lost') this.connection = 'connecting';
    this.failure = null;
    try {
      const client = new ApiClient(await this.#open());
      this.#client = client;
      this.#engines = null;
      client.onClose = () => this.#connectionLost();
      client.onProtocolError = (error) =>
        this.toasts.add('error', 'The host sent something unexpected', error.message, 'Reload the window.');
      this.#listen(client);
      await this.#load();
      this.#attempt = 0;
      this.hostClosing = false;
      this.generation++;
      this.connection = 'open';
    } catch (error) {
      this.#connectFailed(ApiError.from(error));
    }
  }

  /** Calls a command of the host; rejects with an ApiError. */
  call<C extends Command>(method: C, params: CommandParams<C>): Promise<CommandResult<C>> {
    if (!this.#client)
      return Promise.reject(new ApiError({ code: 'disconnected', message: 'The host is not connected.' }));
    return this.#client.call(method, params);
  }

  /** Listens to an event on the present connection. */
  on: ApiClient['on'] = (event, listener) => this.#client?.on(event, listener) ?? (() => undefined);

  /** Runs a command whose failure is told in a notification: `what` is its title. Resolves to undefined then. */
  async attempt<T>(what: string, work: Promise<T>): Promise<T | undefined> {
    try {
      return await work;
    } catch (error) {
      this.toasts.error(what, error);
      return undefined;
    }
  }

  #connectionLost(): void {
    this.#client = null;
    this.connection = 'lost';
    for (const statistics of this.statistics.values()) statistics.stop();
    this.#retryLater();
  }

  #connectFailed(error: ApiError): void {
    // The host speaks and says no (a database from the future, say): no retry will change that.
    const refused = this.#client !== null && error.code !== 'disconnected';
    this.#client = null;
    if (refused) {
      this.failure = { title: 'Switchyard cannot start', message: error.message, hint: error.hint };
      this.connection = 'failed';
    } else if (this.connection === 'lost') {
      this.#retryLater();
    } else {
      this.failure = { title: 'No connection to the host', message: error.message, hint: error.hint };
      this.connection = 'failed';
    }
  }

  #retryLater(): void {
    const wait = RECONNECT_WAITS_MS[Math.min(this.#attempt, RECONNECT_WAITS_MS.length - 1)] ?? 5000;
    this.#attempt++;
    clearTimeout(this.#reconnectTimer);
    this.#reconnectTimer = setTimeout(() => void this.connect(), wait);
  }

  async #load(): Promise<void> {
    const touched = new Set<string>();
    this.#touched = touched;
    const [host, vms, firstGuest, settings] = await Promise.all([
      this.call('hostInfo', {}),
      this.call('listVms', {}),
      this.call('firstGuestStatus', {}),
      this.call('getSettings', {}),
    ]);
    // What was found out of them meanwhile is newer.
    this.host = { ...host, engines: this.#engines ?? host.engines };
    this.firstGuest = firstGuest;
    this.progress.clear();
    this.snapshots.clear();
    const listed = new Set(vms.map(({ id }) => id));
    // A machine that was made, changed or removed while the list was under way is newer than the list.
    for (const id of [...this.vms.keys()]) if (!listed.has(id) && !touched.has(id)) this.#removeVm(id);
    for (const vm of vms) if (!touched.has(vm.id)) this.#putVm(vm);
    this.settings = settingsSchema.parse(settings[SETTINGS_KEY] ?? { theme: this.settings.theme });
    applyTheme(this.settings.theme);
    const remembered = this.selectedId ?? this.settings.selectedVmId;
    const first = remembered !== null && this.vms.has(remembered) ? remembered : this.sortedVms[0]?.id;
    if (first !== undefined) this.select(first);
  }

  #listen(client: ApiClient): void {
    client.on('enginesChanged', ({ engines }) => {
      this.#engines = engines;
      if (this.host) this.host = { ...this.host, engines };
    });
    client.on('vmChanged', ({ vm }) => {
      this.#touched.add(vm.id);
      this.#putVm(vm);
    });
    client.on('vmRemoved', ({ vmId }) => {
      this.#touched.add(vmId);
      this.#removeVm(vmId);
    });
    client.on('vmCrashed', ({ name, vmId, message, hint }) => {
      if (vmId !== this.selectedId) this.toasts.add('error', `“${name}” crashed`, message, hint);
    });
    client.on('snapshotsChanged', ({ vmId, snapshots }) => this.snapshots.set(vmId, snapshots));
    client.on('statistics', (statistics) => this.statisticsOf(statistics.vmId).add(statistics));
    client.on('progress', (progress) => this.progress.set(progress.vmId, progress));
    client.on('firstGuest', (status) => (this.firstGuest = status));
    client.on('notice', ({ level, message }) => this.toasts.add(level, message));
    client.on('hostClosing', () => (this.hostClosing = true));
  }

  #putVm(vm: Vm): void {
    const before = this.vms.get(vm.id);
    this.vms.set(vm.id, vm);
    if (vm.busy === null) this.progress.delete(vm.id);
    if (vm.state === 'stopped' || vm.state === 'crashed' || vm.state === 'paused')
      this.statistics.get(vm.id)?.stop();
    if (before && before.state !== vm.state) this.announcement = `${vm.config.name}: ${vm.state}`;
  }

  #removeVm(id: string): void {
    const at = this.sortedVms.findIndex((vm) => vm.id === id);
    this.vms.delete(id);
    this.snapshots.delete(id);
    this.statistics.delete(id);
    this.progress.delete(id);
    if (this.selectedId !== id) return;
    const next = this.sortedVms[Math.min(at, this.sortedVms.length - 1)];
    this.selectedId = null;
    if (next) this.select(next.id);
  }

  statisticsOf(vmId: string): VmStatistics {
    let statistics = this.statistics.get(vmId);
    if (!statistics) this.statistics.set(vmId, (statistics = new VmStatistics()));
    return statistics;
  }

  select(id: string): void {
    if (this.selectedId !== id) this.tab = 'console';
    this.selectedId = id;
    if (this.settings.selectedVmId !== id) this.changeSettings({ selectedVmId: id });
    void this.attempt('Reading the snapshots failed', this.#readSnapshots(id));
    void this.attempt('Reading the statistics failed', this.#readStatistics(id));
  }

  async #readSnapshots(vmId: string): Promise<void> {
    this.snapshots.set(vmId, await this.call('listSnapshots', { vmId }));
  }

  async #readStatistics(vmId: string): Promise<void> {
    const statistics = this.statisticsOf(vmId);
    const [latest, points] = await Promise.all([
      this.call('statistics', { vmId }),
      this.call('exitHistory', { vmId, fromMs: Date.now() - HISTORY_MS, pointsMax: 120 }),
    ]);
    const state = this.vms.get(vmId)?.state;
    if (latest && !statistics.latest) {
      statistics.add(latest);
      if (state !== 'running') statistics.stop();
    }
    if (state === 'running' || state === 'paused') statistics.prepend(points);
  }

  changeSettings(change: Partial<Settings>): void {
    this.settings = { ...this.settings, ...change };
    if (change.theme) applyTheme(change.theme);
    clearTimeout(this.#settingsTimer);
    this.#settingsTimer = setTimeout(() => {
      const saved = this.call('setSetting', { key: SETTINGS_KEY, value: this.settings });
      void this.attempt('Saving the window settings failed', saved);
    }, SETTINGS_WRITE_DELAY_MS);
  }

  start(vm: Vm): void {
    void this.attempt(`Starting “${vm.config.name}” failed`, this.call('start', { vmId: vm.id }));
  }

  pause(vm: Vm): void {
    void this.attempt(`Pausing “${vm.config.name}” failed`, this.call('pause', { vmId: vm.id }));
  }

  resume(vm: Vm): void {
    void this.attempt(`Resuming “${vm.config.name}” failed`, this.call('resume', { vmId: vm.id }));
  }

  powerOff(vm: Vm): void {
    const pressed = this.call('powerOff', { vmId: vm.id }).then(() =>
      this.toasts.add(
        'info',
        `Power button of “${vm.config.name}” pressed`,
        'The guest decides what to do; if it does nothing, use Force off.',
      ),
    );
    void this.attempt(`Powering off “${vm.config.name}” failed`, pressed);
  }

  /** Resolves when the guest runs on another engine, or it was told why not. */
  async setEngine(vm: Vm, { kind, accelerator }: EngineName): Promise<void> {
    const changed = await this.attempt(
      `“${vm.config.name}” does not change its engine`,
      this.call('setEngine', { vmId: vm.id, engine: kind, ...(accelerator && { accelerator }) }),
    );
    const last = changed?.engineStatus?.lastSwitch;
    if (!last) return;
    this.toasts.add(
      'info',
      `“${vm.config.name}” runs on ${describeEngine(last.to)}`,
      `The guest stood still for ${nanoseconds(last.ns)}.`,
    );
  }

  async installFirstGuest(variant: FirstGuestVariant): Promise<void> {
    const made = this.call('firstGuestInstall', { variant });
    const vm = await this.attempt('Fetching the first guest failed', made);
    if (vm) this.select(vm.id);
  }

  cancelFirstGuest(): void {
    void this.attempt('Cancelling failed', this.call('firstGuestCancel', {}));
  }
}
