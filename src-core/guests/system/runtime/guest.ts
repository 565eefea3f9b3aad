/** What a system test guest is to those who run it. */

export interface SystemGuest {
  /** File-name-like name; its expected output is `test/guests/expected/<name>.txt`. */
  readonly name: string;
  /** What it tests, in a line. */
  readonly subject: string;
  /**
   * Where its expected output comes from: recorded from QEMU TCG, or written from the Intel SDM where QEMU
   * is known to deviate; then why.
   */
  readonly expectation: { readonly from: 'qemu' } | { readonly from: 'sdm'; readonly because: string };
  /** How the machine ends: isa-debug-exit with 85 (the default), or a triple fault. */
  readonly ends?: 'debug-exit' | 'triple-fault';
  /** The Multiboot image. */
  build(): Uint8Array;
}
