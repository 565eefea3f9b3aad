/** Cost profiles: the built-in ones, a user's own, and what is said of those that are no good. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  BUILT_IN_PROFILES,
  builtInProfile,
  parseProfile,
  ProfileError,
} from '../../../src-core/engines/hardware/model/profile.ts';
import { Machine } from '../../../src-core/machine/machine.ts';
import { UsageError } from '../../../src-main/cli/arguments.ts';
import { parseHardwareOptions } from '../../../src-main/cli/hardware-options.ts';
import { loadProfile } from '../../../src-main/profiles.ts';
import { longModeGuest } from '../guests.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'switchyard-profile-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

function file(text: string): string {
  const path = join(directory, 'profile.json');
  writeFileSync(path, text);
  return path;
}

describe('a cost profile', () => {
  it.each(BUILT_IN_PROFILES.map((profile) => [profile.name, profile] as const))(
    'built in: %s says of every figure where it is from',
    (name, profile) => {
      expect(builtInProfile(name)).toBe(profile);
      const figures = JSON.stringify(profile).match(/"value":/g) ?? [];
      const sources =
        JSON.stringify(profile).match(/"source":"(assumed|published: |measured: |derived: )/g) ?? [];
      expect(figures.length).toBeGreaterThan(20);
      expect(sources.length).toBe(figures.length);
    },
  );

  it('can be copied, edited and named by its file', () => {
    const edited = structuredClone(builtInProfile('epyc'));
    edited.name = 'mine';
    edited.cycles.exit = { value: 12345, source: 'measured: on my machine' };
    const path = file(JSON.stringify(edited));
    expect(loadProfile(path)).toEqual(edited);
    expect(parseHardwareOptions({ profile: path }, 'hardware')).toEqual({
      accelerator: 'model',
      profile: edited,
    });
    const machine = new Machine({
      memoryMib: 16,
      kernel: { name: 'guest', bytes: longModeGuest() },
      engine: 'hardware',
      hardware: { accelerator: 'model', profile: edited },
    });
    expect(machine.statistics().model).toMatchObject({
      modelled: true,
      mmu: 'nested',
      profile: { name: 'mine' },
    });
    machine.stop();
  });

  it('has a default', () => {
    expect(builtInProfile().name).toBe('epyc');
  });

  it.each([
    [
      'nothing of that name',
      'itanium',
      'there is no cost profile "itanium"; built in are epyc, core, p4-672',
    ],
    [
      'no such file',
      './nowhere/profile.json',
      'the cost profile ./nowhere/profile.json cannot be read: ENOENT',
    ],
  ])('is refused: %s', (_, name, message) => {
    expect(() => loadProfile(name)).toThrow(ProfileError);
    expect(() => loadProfile(name)).toThrow(message);
    expect(() => parseHardwareOptions({ profile: name }, 'hardware')).toThrow(UsageError);
  });

  it('is refused: not JSON', () => {
    expect(() => loadProfile(file('{'))).toThrow(/^the cost profile .*profile\.json is not JSON: /);
  });

  it.each([
    ['a missing figure', (p: Json) => delete at(p, 'cycles')['exit'], 'cycles.exit: '],
    [
      'a negative one',
      (p: Json) => (at(p, 'cycles')['exit'] = { value: -1, source: 'assumed' }),
      'cycles.exit.value: ',
    ],
    ['no source', (p: Json) => (at(p, 'cycles')['exit'] = { value: 1 }), 'cycles.exit.source: '],
    [
      'a source of no kind',
      (p: Json) => (at(p, 'cycles')['exit'] = { value: 1, source: 'someone told me' }),
      'cycles.exit.source: must be "assumed" or begin with',
    ],
    ['a figure too many', (p: Json) => (at(p, 'cycles')['exitt'] = 1), 'cycles: '],
    ['another format', (p: Json) => (p['format'] = 'x'), 'format: '],
    ['no clock', (p: Json) => (p['mhz'] = { value: 0, source: 'assumed' }), 'mhz: must be more than 0'],
  ])('is refused, with the place: %s', (_, spoil, message) => {
    const data = structuredClone(builtInProfile()) as unknown as Json;
    spoil(data);
    expect(() => parseProfile(data, 'mine')).toThrow(ProfileError);
    expect(() => parseProfile(data, 'mine')).toThrow(`the cost profile mine is not valid: ${message}`);
  });

  it('of a machine that does not exist is a refusal of the engine', () => {
    const bytes = longModeGuest();
    expect(
      () =>
        new Machine({
          memoryMib: 16,
          kernel: { name: 'guest', bytes },
          engine: 'hardware',
          hardware: { accelerator: 'model', profile: 'itanium' },
        }),
    ).toThrow('the hardware engine is not available: there is no cost profile "itanium"');
  });
});

type Json = Record<string, unknown>;

function at(data: Json, key: string): Json {
  return data[key] as Json;
}
