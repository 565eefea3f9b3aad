import { readdir, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import type { BrowseEntry, BrowseResult } from '../../src-core/protocol/api.ts';
import { ApiError } from '../../src-core/protocol/messages.ts';

/** Entries listed of one directory at most. */
const ENTRIES_MAX = 2000;

/** Lists a directory for the file picker; null starts at home. A file's path lists the directory it is in. @throws ApiError `file` */
export async function browseFiles(path: string | null): Promise<BrowseResult> {
  const wanted = resolve(path === null || path === '' ? homedir() : path);
  try {
    const directory = (await stat(wanted)).isDirectory() ? wanted : dirname(wanted);
    const names = (await readdir(directory)).sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
    const listed = await Promise.all(names.slice(0, ENTRIES_MAX).map((name) => describe(directory, name)));
    const entries = listed.filter((entry) => entry !== undefined);
    const parent = dirname(directory);
    return {
      path: directory,
      parent: parent === directory ? null : parent,
      entries: [
        ...entries.filter(({ kind }) => kind === 'directory'),
        ...entries.filter(({ kind }) => kind === 'file'),
      ],
      truncated: names.length > ENTRIES_MAX,
    };
  } catch (error) {
    throw new ApiError(
      {
        code: 'file',
        message: `Cannot list ${wanted}: ${error instanceof Error ? error.message : String(error)}`,
      },
      { cause: error },
    );
  }
}

/** Undefined for what is neither file nor directory, and for what cannot be looked at (dangling links, lost rights). */
async function describe(directory: string, name: string): Promise<BrowseEntry | undefined> {
  const path = join(directory, name);
  let stats;
  try {
    stats = await stat(path);
  } catch {
    return undefined;
  }
  if (!stats.isDirectory() && !stats.isFile()) return undefined;
  const kind = stats.isDirectory() ? 'directory' : 'file';
  return { name, path, kind, sizeBytes: kind === 'file' ? stats.size : 0, modifiedAt: stats.mtimeMs };
}
