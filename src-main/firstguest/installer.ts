import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { FirstGuestStatus, FirstGuestVariant } from '../../src-core/protocol/api.ts';
import { ApiError } from '../../src-core/protocol/messages.ts';
import { DEFAULT_VM_CONFIG, type VmConfig } from '../../src-core/protocol/vm.ts';
import { writeDurably } from '../durable-file.ts';
import { osRelease } from '../host/host-info.ts';
import { aptMissing } from './apt.ts';
import { buildInitramfs } from './initramfs.ts';
import { fetchDistributionKernel } from './packages.ts';

/** Parts of the whole that each step takes, for the progress bar: lists, download, the rest. */
const LISTS_SHARE = 0.1;
const DOWNLOAD_SHARE = 0.75;

const VARIANT_NAMES: Record<FirstGuestVariant, string> = { i386: '32-bit', amd64: '64-bit' };

type Progress = Pick<FirstGuestStatus, 'state' | 'reason' | 'hint' | 'step' | 'fraction'>;

/** Makes "Linux (from this computer's packages)": fetches, builds, and gives the configuration of the VM to create. */
export class FirstGuestInstaller {
  readonly #cache: string;
  readonly #guests: string;
  readonly #onChange: () => void;
  #progress: Progress = { state: 'available', reason: null, hint: null, step: null, fraction: null };
  #cancel: AbortController | undefined;
  #checked: Promise<void> | undefined;

  /**
   * @param cache directory for what can be fetched again.
   * @param guests directory for what the VMs boot from.
   */
  constructor(cache: string, guests: string, onChange: () => void) {
    this.#cache = cache;
    this.#guests = guests;
    this.#onChange = onChange;
  }

  async status(): Promise<Progress> {
    await (this.#checked ??= this.#check());
    return this.#progress;
  }

  /** @param name the new VM's name. @throws ApiError */
  async install(variant: FirstGuestVariant, name: string): Promise<VmConfig> {
    if ((await this.status()).state === 'unsupported') {
      throw new ApiError({
        code: 'unavailable',
        message: this.#progress.reason ?? 'This computer has no packages to use.',
        ...(this.#progress.hint === null ? {} : { hint: this.#progress.hint }),
      });
    }
    if (this.#cancel)
      throw new ApiError({ code: 'wrongState', message: 'The first guest is being made already.' });
    const controller = new AbortController();
    this.#cancel = controller;
    this.#set({ state: 'installing', reason: null, hint: null, step: 'Starting', fraction: 0 });
    try {
      const config = await this.#make(variant, name, controller.signal);
      this.#set({ state: 'available', reason: null, hint: null, step: null, fraction: null });
      return config;
    } catch (error) {
      throw this.#failed(error, controller.signal.aborted);
    } finally {
      this.#cancel = undefined;
    }
  }

  cancel(): void {
    this.#cancel?.abort();
  }

  async #make(variant: FirstGuestVariant, name: string, signal: AbortSignal): Promise<VmConfig> {
    const parts = await fetchDistributionKernel({
      cache: this.#cache,
      architecture: variant,
      signal,
      onStep: (step) => {
        const fraction = step === 'Unpacking' ? LISTS_SHARE + DOWNLOAD_SHARE : (this.#progress.fraction ?? 0);
        this.#set({ ...this.#progress, step, fraction });
      },
      onDownload: (received, total) => {
        const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(0);
        this.#set({
          ...this.#progress,
          step: `Downloading the kernel and BusyBox: ${megabytes(received)} of ${megabytes(total)} MB`,
          fraction: LISTS_SHARE + (total > 0 ? (received / total) * DOWNLOAD_SHARE : 0),
        });
      },
    });
    this.#set({ ...this.#progress, step: 'Building the initial RAM disk', fraction: 0.95 });
    const directory = join(this.#guests, variant);
    mkdirSync(directory, { recursive: true });
    const kernel = join(directory, 'vmlinuz');
    const initrd = join(directory, 'initramfs.gz');
    copyFileSync(parts.kernel, kernel);
    const image = buildInitramfs({ busybox: parts.busybox, modules: parts.modules });
    await writeDurably(initrd, (file) => file.writeFile(image));
    signal.throwIfAborted();
    return {
      ...DEFAULT_VM_CONFIG,
      name,
      memoryMib: 256,
      kernel,
      initrd,
      // Without the kernel's self-tests of its ciphers, which take as long as the rest of the boot.
      commandLine: 'console=ttyS0 cryptomgr.notests',
      notes: `Linux (${VARIANT_NAMES[variant]}) and BusyBox from this computer's packages; everything lives in memory.`,
    };
  }

  #failed(error: unknown, cancelled: boolean): ApiError {
    if (cancelled) {
      this.#set({ state: 'available', reason: null, hint: null, step: null, fraction: null });
      return new ApiError(
        { code: 'cancelled', message: 'Making the first guest was cancelled.' },
        { cause: error },
      );
    }
    const message = `The first guest could not be made: ${error instanceof Error ? error.message : String(error)}`;
    const hint = 'Check the network and try again, or create a virtual machine from a kernel of your own.';
    this.#set({ state: 'failed', reason: message, hint, step: null, fraction: null });
    return new ApiError({ code: 'unavailable', message, hint }, { cause: error });
  }

  async #check(): Promise<void> {
    const missing = await aptMissing();
    if (missing === undefined) return;
    this.#progress = {
      state: 'unsupported',
      reason: `Only on Debian and its relatives can a guest be made out of the computer's own packages; on ${osRelease().PRETTY_NAME ?? 'this system'} it cannot: ${missing}.`,
      hint: 'Create a virtual machine and choose a Linux kernel (a bzImage) and an initial RAM disk.',
      step: null,
      fraction: null,
    };
  }

  #set(progress: Progress): void {
    this.#progress = progress;
    this.#onChange();
  }
}
