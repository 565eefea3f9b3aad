import options from '../resources/vm-process.json' with { type: 'json' };

/**
 * How Node is started where a VM runs in it (resources/vm-process.json, which scripts/cli.mjs reads too), for the sake of
 * the host's memory. Young objects get 4 MiB at a time: V8 would take several times what lives of the heap. V8's compiler
 * threads have few heaps in glibc's allocator, and what they free goes back to the host (mallopt(3)). Together 180 MB of
 * 530 after a Linux boot and 300 processes.
 */
export const VM_NODE_FLAGS: readonly string[] = options.execArgv;

/** The environment of such a process: what the user has set counts. */
export function vmEnvironment(): NodeJS.ProcessEnv {
  return { ...options.env, ...process.env };
}
