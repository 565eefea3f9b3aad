import { getSystemErrorMap } from 'node:util';

/** What stands between this host and hardware virtualization, or went wrong with it. */
export type KvmErrorKind =
  /** Not Linux on x86-64. */
  | 'platform'
  /** There is no /dev/kvm. */
  | 'absent'
  /** /dev/kvm is there and may not be opened. */
  | 'permission'
  /** Something else is at /dev/kvm. */
  | 'notKvm'
  /** Another KVM API than version 12. */
  | 'apiVersion'
  /** KVM lacks something this engine needs. */
  | 'capability'
  /** KVM_CREATE_VM or KVM_CREATE_VCPU failed. */
  | 'create'
  /** Guest memory was not accepted. */
  | 'memory'
  /** The guest's state was not accepted. */
  | 'state'
  /** The machine is configured in a way the hardware cannot serve. */
  | 'configuration'
  /** Any other call failed, or KVM gave an exit nothing is known of. */
  | 'system';

/** The hardware engine can't be had, or can't go on. `message` is a sentence for people. */
export class KvmError extends Error {
  readonly kind: KvmErrorKind;
  /** What to do about it, where that is known. */
  readonly hint: string | undefined;
  /** A command that mends it, where there is one. */
  readonly command: string | undefined;

  constructor(
    kind: KvmErrorKind,
    message: string,
    options: { hint?: string; command?: string; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.name = 'KvmError';
    this.kind = kind;
    this.hint = options.hint;
    this.command = options.command;
  }
}

/** "EACCES: permission denied", for a positive error number. */
export function describeErrno(errno: number): string {
  const [code, text] = getSystemErrorMap().get(-errno) ?? [`error ${errno}`, undefined];
  return text === undefined ? code : `${code}: ${text}`;
}

/** A system call that failed. */
export class SystemCallError extends Error {
  readonly errno: number;

  constructor(call: string, errno: number) {
    super(`${call}: ${describeErrno(errno)}`);
    this.name = 'SystemCallError';
    this.errno = errno;
  }
}
