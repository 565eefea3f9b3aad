import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';

/** What a file under way is called until it is whole. */
export const UNFINISHED_SUFFIX = '.unfinished';

/**
 * Writes a file so that a kill or power cut at any instant leaves either nothing (but a leftover with
 * UNFINISHED_SUFFIX) or the whole of it: to another name, synced, renamed, the directory synced.
 * @returns the file's size in bytes.
 */
export async function writeDurably(
  path: string,
  write: (file: FileHandle) => Promise<void>,
): Promise<number> {
  const unfinished = path + UNFINISHED_SUFFIX;
  const file = await open(unfinished, 'w', 0o600);
  try {
    try {
      await write(file);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(unfinished, path);
  } catch (error) {
    await rm(unfinished, { force: true });
    throw error;
  }
  await syncDirectory(dirname(path));
  const finished = await open(path, 'r');
  try {
    return (await finished.stat()).size;
  } finally {
    await finished.close();
  }
}

async function syncDirectory(path: string): Promise<void> {
  // Windows cannot open directories; its renames are journalled.
  if (process.platform === 'win32') return;
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
