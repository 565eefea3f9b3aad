import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const SUFFIX = '.snapshot';

/** The files snapshots are kept in: one a snapshot, named by its id. The database says which of them count. */
export class SnapshotFiles {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  path(id: string): string {
    return join(this.#directory, id + SUFFIX);
  }

  remove(id: string): void {
    rmSync(this.path(id), { force: true });
  }

  /**
   * Removes what a host that was killed left behind: files under way, files never entered in the database, files
   * whose entry was deleted first. @returns the names of the files removed.
   */
  removeOrphans(known: ReadonlySet<string>): string[] {
    const orphans = readdirSync(this.#directory).filter(
      (name) => !(name.endsWith(SUFFIX) && known.has(name.slice(0, -SUFFIX.length))),
    );
    for (const name of orphans) rmSync(join(this.#directory, name), { force: true, recursive: true });
    return orphans;
  }
}
