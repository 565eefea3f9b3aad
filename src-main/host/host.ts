import { join } from 'node:path';
import type { ApiEvent, EventData, FirstGuestStatus, HostInfo } from '../../src-core/protocol/api.ts';
import { ApiError, type EventMessage, type ResponseMessage } from '../../src-core/protocol/messages.ts';
import { addUses } from '../../src-core/protocol/engine-comparison.ts';
import type { Vm, VmConfig } from '../../src-core/protocol/vm.ts';
import { FirstGuestInstaller } from '../firstguest/installer.ts';
import { browseFiles } from './browse.ts';
import { Connection, invalidConfig, type Handlers } from './connection.ts';
import type { DataDirectory } from './data-directory.ts';
import { openDatabase } from './database.ts';
import { HostEngines, type Prober } from './engines.ts';
import { exportComparison, exportExits } from './exports.ts';
import { hostInfo } from './host-info.ts';
import { Registry, type VmRecord } from './registry.ts';
import { SnapshotFiles } from './snapshot-files.ts';
import { validateConfig } from './validate.ts';
import { VmController } from './vm-controller.ts';
import type { VmLauncher } from './vm-process-handle.ts';

/** What a shell brings along. */
export interface Shell {
  kind: HostInfo['shell'];
  versions: Record<string, string>;
  launch: VmLauncher;
  probe: Prober;
  /** The system's file dialog, where the shell has one. */
  pickFile?: (title: string, startPath: string | null) => Promise<string | null>;
  /** Faults in Switchyard itself go here (a log), with no user to answer to. */
  onFault: (error: Error) => void;
}

export const FIRST_GUEST_NAME = "Linux (from this computer's packages)";

/** The host: all VMs of one data directory, and the API to them. */
export class Host {
  readonly #shell: Shell;
  readonly #directory: DataDirectory;
  readonly #registry: Registry;
  readonly #snapshotFiles: SnapshotFiles;
  readonly #installer: FirstGuestInstaller;
  readonly #engines: HostEngines;
  readonly #vms = new Map<string, VmController>();
  readonly #connections = new Set<Connection>();
  readonly #handlers: Handlers;

  /**
   * Opens what is kept in the data directory, which stays the caller's to release after `close`.
   * @throws DatabaseError
   */
  constructor(directory: DataDirectory, shell: Shell) {
    this.#shell = shell;
    this.#directory = directory;
    this.#registry = new Registry(openDatabase(directory.databasePath));
    this.#snapshotFiles = new SnapshotFiles(directory.snapshotsPath);
    this.#snapshotFiles.removeOrphans(this.#registry.snapshotIds());
    this.#installer = new FirstGuestInstaller(
      join(directory.cachePath, 'packages'),
      join(directory.path, 'guests'),
      () => this.#broadcastFirstGuest(),
    );
    this.#engines = new HostEngines(shell.probe, () =>
      this.#broadcast('enginesChanged', { engines: this.#engines.infos() }),
    );
    for (const record of this.#registry.listVms()) this.#add(record);
    this.#handlers = this.#makeHandlers();
  }

  /** A new window. `send` must not throw. */
  connect(send: (message: ResponseMessage | EventMessage) => void): Connection {
    // Whoever connects will want to know which engines there are.
    void this.#engines.probe();
    const connection = new Connection(this.#handlers, send, this.#shell.onFault);
    this.#connections.add(connection);
    return connection;
  }

  disconnect(connection: Connection): void {
    connection.close();
    this.#connections.delete(connection);
  }

  /** A VM by id. @throws ApiError `notFound` */
  vm(id: string): VmController {
    const vm = this.#vms.get(id);
    if (!vm)
      throw new ApiError({ code: 'notFound', message: 'This virtual machine does not exist any more.' });
    return vm;
  }

  /** How many VMs have a process. */
  get runningCount(): number {
    return [...this.#vms.values()].filter(({ pid }) => pid !== undefined).length;
  }

  /** Ends all VMs, tells the windows, closes the database. */
  async close(): Promise<void> {
    this.#installer.cancel();
    this.#broadcast('hostClosing', {});
    await Promise.all(
      [...this.#vms.values()]
        .filter(({ pid }) => pid !== undefined)
        .map((vm) => vm.forceOff('Switchyard was closed while it was running.')),
    );
    for (const connection of [...this.#connections]) this.disconnect(connection);
    for (const vm of this.#vms.values()) vm.dispose();
    this.#registry.close();
  }

  #add(record: VmRecord): VmController {
    const { id } = record;
    const vm = new VmController(
      record,
      {
        registry: this.#registry,
        launch: this.#shell.launch,
        snapshotFiles: this.#snapshotFiles,
        engines: this.#engines,
      },
      {
        changed: () => this.#broadcast('vmChanged', { vm: vm.view() }),
        crashed: (end) =>
          this.#broadcast('vmCrashed', {
            vmId: id,
            name: vm.config.name,
            message: end.message,
            hint: end.hint ?? '',
          }),
        snapshotsChanged: () =>
          this.#broadcast('snapshotsChanged', {
            vmId: id,
            snapshots: vm.snapshots,
            currentSnapshotId: vm.currentSnapshotId,
          }),
        statistics: (statistics) => this.#broadcast('statistics', statistics),
        progress: (progress) => this.#broadcast('progress', { vmId: id, ...progress }),
        fault: (error) => this.#shell.onFault(error),
      },
    );
    this.#vms.set(id, vm);
    return vm;
  }

  #create(config: VmConfig, origin: VmRecord['origin']): Vm {
    const vm = this.#add(this.#registry.createVm(config, origin));
    this.#broadcast('vmChanged', { vm: vm.view() });
    return vm.view();
  }

  /** @throws ApiError `invalidConfig` */
  #requireValid(config: VmConfig, vmId?: string): void {
    const errors = validateConfig(config, this.#names(vmId));
    if (errors.length > 0) throw invalidConfig(errors);
  }

  #names(exceptId?: string): string[] {
    return [...this.#vms.values()].filter(({ id }) => id !== exceptId).map(({ config }) => config.name);
  }

  /** A name like the wanted one that no VM has. */
  #freeName(wanted: string): string {
    const names = new Set(this.#names());
    for (let number = 1; ; number++) {
      const name = number === 1 ? wanted : `${wanted} ${number}`;
      if (!names.has(name)) return name;
    }
  }

  async #firstGuestStatus(): Promise<FirstGuestStatus> {
    const vmIds = [...this.#vms.values()].filter(({ origin }) => origin === 'firstGuest').map(({ id }) => id);
    const progress = await this.#installer.status();
    const state = progress.state === 'available' && vmIds.length > 0 ? 'installed' : progress.state;
    return { ...progress, state, variants: ['i386', 'amd64'], vmIds };
  }

  #broadcastFirstGuest(): void {
    this.#firstGuestStatus().then(
      (status) => this.#broadcast('firstGuest', status),
      (error: unknown) => this.#shell.onFault(ApiError.from(error)),
    );
  }

  #broadcast<E extends ApiEvent>(event: E, data: EventData<E>): void {
    for (const connection of this.#connections) connection.event(event, data);
  }

  #makeHandlers(): Handlers {
    /** Runs an action on a VM and answers with what became of it. */
    const acting = (act: (vm: VmController) => Promise<void>) => async (input: { vmId: string }) => {
      const vm = this.vm(input.vmId);
      await act(vm);
      return vm.view();
    };
    return {
      hostInfo: () =>
        hostInfo(this.#shell.kind, this.#shell.versions, this.#directory.path, this.#engines.infos()),
      probeHardware: ({ again }) => (again ? this.#engines.probeAgain() : this.#engines.probe()),

      listVms: () => [...this.#vms.values()].map((vm) => vm.view()),
      validateConfig: ({ config, vmId }) => validateConfig(config, this.#names(vmId)),
      createVm: ({ config }) => {
        this.#requireValid(config);
        return this.#create(config, 'user');
      },
      updateVm: ({ vmId, config }) => {
        const vm = this.vm(vmId);
        this.#requireValid(config, vmId);
        const { engine, accelerator } = vm.config;
        if (vm.pid !== undefined && (config.engine !== engine || config.accelerator !== accelerator)) {
          throw new ApiError({
            code: 'wrongState',
            message: `${vm.config.name} is running: its engine is changed with the engine switch.`,
          });
        }
        vm.update(config);
        return vm.view();
      },
      cloneVm: ({ vmId, name }) => {
        const { config } = this.vm(vmId);
        const copy = { ...config, name: name ?? this.#freeName(`${config.name} (copy)`) };
        this.#requireValid(copy);
        return this.#create(copy, 'user');
      },
      deleteVm: ({ vmId }) => {
        this.vm(vmId).delete();
        this.#vms.delete(vmId);
        this.#broadcast('vmRemoved', { vmId });
        this.#broadcastFirstGuest();
        return null;
      },
      describeDeletion: ({ vmId }) => {
        const { snapshots, config } = this.vm(vmId);
        const files = [
          config.kernel,
          config.initrd,
          config.firmware,
          ...config.modules.map(({ path }) => path),
        ];
        return {
          snapshots: snapshots.length,
          snapshotBytes: snapshots.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
          keptFiles: files.filter((path) => path !== null),
        };
      },

      start: acting((vm) => vm.start()),
      pause: acting((vm) => vm.pause()),
      resume: acting((vm) => vm.resume()),
      reset: acting((vm) => vm.reset()),
      powerOff: acting((vm) => vm.powerOff()),
      forceOff: acting((vm) => vm.forceOff()),
      setEngine: ({ vmId, engine, accelerator }) =>
        acting((vm) => vm.setEngine(engine, accelerator))({ vmId }),

      serialSubscribe: ({ vmId, port }, connection) => {
        const terminal = this.vm(vmId).terminal(port);
        return { subscription: connection.subscribe((send) => terminal.subscribe(send)) };
      },
      serialUnsubscribe: ({ subscription }, connection) => {
        connection.unsubscribe(subscription);
        return null;
      },
      serialAck: ({ subscription, length }, connection) => {
        connection.acknowledge(subscription, length);
        return null;
      },
      serialInput: async ({ vmId, port, text }) => {
        await this.vm(vmId).serialInput(port, text);
        return null;
      },
      serialResize: ({ vmId, port, columns, rows }) => {
        this.vm(vmId).terminal(port).resize(columns, rows);
        return null;
      },

      listSnapshots: ({ vmId }) => this.vm(vmId).snapshots,
      takeSnapshot: ({ vmId, name }) => this.vm(vmId).takeSnapshot(name),
      restoreSnapshot: ({ vmId, snapshotId }) => acting((vm) => vm.restoreSnapshot(snapshotId))({ vmId }),
      deleteSnapshot: ({ vmId, snapshotId }) => {
        this.vm(vmId).deleteSnapshot(snapshotId);
        return null;
      },
      renameSnapshot: ({ vmId, snapshotId, name }) => this.vm(vmId).renameSnapshot(snapshotId, name),

      statistics: ({ vmId }) => this.vm(vmId).statistics,
      exitHistory: ({ vmId, fromMs, pointsMax }) =>
        this.#registry.history(this.vm(vmId).id, fromMs, pointsMax),
      compareEngines: ({ vmId, fromMs }) => addUses(this.vm(vmId).engineSamples(fromMs)),
      exportComparison: ({ vmId, fromMs, format }) => {
        const vm = this.vm(vmId);
        return exportComparison(vm.config.name, vm.engineSamples(fromMs), format);
      },
      exportExits: ({ vmId, format }) => {
        const { statistics, config } = this.vm(vmId);
        if (!statistics) {
          throw new ApiError({
            code: 'wrongState',
            message: `${config.name} has not run yet: there are no exits to export.`,
          });
        }
        return exportExits(config.name, statistics, format);
      },

      inspect: ({ vmId, top, order }) => this.vm(vmId).inspect({ top, order }),
      inspectRegion: ({ vmId, region }) => this.vm(vmId).inspectRegion(region),

      browseFiles: ({ path }) => browseFiles(path),
      pickFile: ({ title, startPath }) => {
        if (!this.#shell.pickFile) {
          throw new ApiError({
            code: 'unavailable',
            message: 'This shell has no file dialog of its own; use browseFiles.',
          });
        }
        return this.#shell.pickFile(title, startPath);
      },

      firstGuestStatus: () => this.#firstGuestStatus(),
      firstGuestInstall: async ({ variant }) => {
        const config = await this.#installer.install(variant, this.#freeName(FIRST_GUEST_NAME));
        const vm = this.#create({ ...config, name: this.#freeName(FIRST_GUEST_NAME) }, 'firstGuest');
        this.#broadcastFirstGuest();
        return vm;
      },
      firstGuestCancel: () => {
        this.#installer.cancel();
        return null;
      },

      getSettings: () => this.#registry.settings(),
      setSetting: ({ key, value }) => {
        const text = JSON.stringify(value);
        if (text.length > SETTING_LENGTH_MAX) {
          throw new ApiError({ code: 'badRequest', message: `The setting ${key} is too large.` });
        }
        this.#registry.setSetting(key, value);
        return null;
      },
    };
  }
}

const SETTING_LENGTH_MAX = 64 * 1024;
