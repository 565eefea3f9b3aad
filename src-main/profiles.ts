import { existsSync, readFileSync } from 'node:fs';
import {
  BUILT_IN_PROFILES,
  builtInProfile,
  type CostProfile,
  parseProfile,
  ProfileError,
} from '../src-core/engines/hardware/model/profile.ts';

/**
 * The cost profile that --profile names: a built-in one, or a JSON file in the form of the built-in ones
 * (src-core/engines/hardware/model/profiles/). @throws ProfileError
 */
export function loadProfile(nameOrFile: string): CostProfile {
  if (BUILT_IN_PROFILES.some(({ name }) => name === nameOrFile)) return builtInProfile(nameOrFile);
  // What looks like a name and is no file is a name.
  if (!/[./\\]/.test(nameOrFile) && !existsSync(nameOrFile)) return builtInProfile(nameOrFile);
  let text: string;
  try {
    text = readFileSync(nameOrFile, 'utf8');
  } catch (error) {
    throw new ProfileError(
      `the cost profile ${nameOrFile} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
  let data: unknown;
  try {
    data = JSON.parse(text);
  } catch (error) {
    throw new ProfileError(
      `the cost profile ${nameOrFile} is not JSON: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
  return parseProfile(data, nameOrFile);
}
