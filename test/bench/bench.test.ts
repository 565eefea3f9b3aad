import { describe, expect, test } from 'vitest';
import { MarkerReader } from './markers.ts';
import { findMapping } from './memory.ts';
import { smallestProgram } from './nothing.ts';
import { parseOptions, UsageError } from './options.ts';
import { median, missedBars, summarize, type BenchRun } from './results.ts';
import { benchScript, ROWS, type GuestName } from './rows.ts';
import { readBlock, readLimits, replaceBlock, timesTable, type Titles } from './table.ts';
import type { PeerName } from './peers/peer.ts';

/** A run whose rows took these seconds; the result of each is its name unless given. */
function run(
  peer: PeerName,
  round: number,
  rows: { [name: string]: number },
  results: { [name: string]: string } = {},
  guest: GuestName = 'i386',
): BenchRun {
  return {
    guest,
    peer,
    round,
    session: {
      rows: new Map(
        Object.entries(rows).map(([name, seconds]) => [name, { seconds, result: results[name] ?? name }]),
      ),
    },
  };
}

describe('markers', () => {
  test('are found in pieces of any size, behind other text, with the time their line ended', () => {
    const reader = new MarkerReader();
    expect(reader.push('[ 1.0] Run /init\r\n@@ bo', 10)).toEqual([]);
    expect(reader.push('ot\r\n', 20)).toEqual([{ kind: 'boot', at: 20 }]);
    expect(reader.push('random: done@@ begin sort\r\n@@ end sort\r\n@@ result sort 0a1b  -\r\n', 30)).toEqual(
      [
        { kind: 'begin', row: 'sort', at: 30 },
        { kind: 'end', row: 'sort', at: 30 },
        { kind: 'result', row: 'sort', result: '0a1b -', at: 30 },
      ],
    );
    expect(reader.push('@@ something else\n@@ done\n', 40)).toEqual([{ kind: 'done', at: 40 }]);
  });

  test('a guest that never ends its line does not fill the memory', () => {
    const reader = new MarkerReader();
    for (let i = 0; i < 1000; i++) reader.push('x'.repeat(10_000), 1);
    expect(reader.push('@@ done\n', 2)).toEqual([{ kind: 'done', at: 2 }]);
  });

  test('the script has them for every row, in order', () => {
    const script = benchScript(ROWS, { work: '/w', programs: '/p' });
    const lines = script.replaceAll(/^echo '(.*)'/gm, '$1');
    const rows = new MarkerReader()
      .push(lines, 0)
      .flatMap((marker) => (marker.kind === 'end' ? marker.row : []));
    expect(rows).toEqual(ROWS.map(({ name }) => name));
  });
});

describe('results', () => {
  test('median', () => {
    expect(median([3])).toBe(3);
    expect(median([9, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 9])).toBe(3);
    expect(() => median([])).toThrow(RangeError);
  });

  test('medians by row and peer of one guest, and rows below the bar', () => {
    const costly = run('switchyard', 2, { boot: 12, sort: 2 });
    Object.assign(costly.session, { memoryAboveRam: 201e6, idle: 0.03 });
    const summary = summarize(
      'i386',
      [
        run('switchyard', 1, { boot: 10, sort: 2 }),
        costly,
        run('v86', 1, { boot: 20, sort: 2.5 }),
        run('qemu', 1, { boot: 5, sort: 1 }),
        run('qemu', 1, { boot: 99 }, {}, 'amd64'),
      ],
      ['boot', 'sort'],
    );
    expect(summary.failures).toEqual([]);
    expect(summary.seconds.get('boot')).toEqual(
      new Map([
        ['qemu', 5],
        ['v86', 20],
        ['switchyard', 11],
      ]),
    );
    expect(missedBars(summary)).toEqual([
      "i386, boot: 2.20 times QEMU's time, not 1.5",
      'i386, sort: 1.25 times as fast as v86, not 1.5',
      'i386, host memory: 201 MB above touched RAM, not 200',
      'i386, asleep: 3.0 % of a core, not 2',
    ]);
  });

  test('a result that differs from the reference is a failure, and so is a run that ended early', () => {
    const hung = run('v86', 1, { sort: 1 });
    hung.session.failure = 'gave no sign for 5 s at "awk"';
    const { failures } = summarize(
      'i386',
      [run('native', 1, { sort: 1, awk: 1 }), run('switchyard', 1, { sort: 1, awk: 1 }, { awk: '7' }), hung],
      ['boot', 'sort', 'awk'],
    );
    expect(failures).toEqual([
      'i386, v86, round 1: gave no sign for 5 s at "awk"',
      'WRONG RESULT: i386, switchyard, round 1, awk: "7", but native has "awk"',
    ]);
  });
});

describe('table', () => {
  const titles: Titles = new Map([
    ['native', 'native'],
    ['qemu', 'QEMU'],
    ['v86', 'v86'],
    ['switchyard', 'Switchyard'],
  ]);
  const summary = summarize(
    'i386',
    [
      run('native', 1, { 'shell-loop': 0.0312 }),
      run('qemu', 1, { boot: 4, 'shell-loop': 0.5 }),
      run('v86', 1, { boot: 16 }),
      run('switchyard', 1, { boot: 12.34, 'shell-loop': 1 }),
    ],
    ['boot', 'shell-loop'],
  );

  test('has a line for every row, and what limits it is kept', () => {
    const table = timesTable(summary, titles, new Map([['boot to shell', 'page walks']]));
    expect(table.split('\n')).toEqual([
      '| seconds                  | native | QEMU |  v86 | Switchyard | v86 / Switchyard | Switchyard / QEMU | what limits it |',
      '| ------------------------ | -----: | ---: | ---: | ---------: | ---------------: | ----------------: | -------------- |',
      '| boot to shell            |      - | 4.00 | 16.0 |       12.3 |             1.30 |              3.08 | page walks     |',
      '| shell loop, 20,000 times |  0.031 | 0.50 |    - |       1.00 |                - |              2.00 | -              |',
    ]);
    expect(readLimits(`text\n\n${table}\n\n| a | b | c |\n`)).toEqual(
      new Map([
        ['boot to shell', 'page walks'],
        ['shell loop, 20,000 times', '-'],
      ]),
    );
  });

  test('replaces what stands between the marks of its guest alone', () => {
    const document = [
      'before',
      '<!-- bench:peers i386 begin -->old<!-- bench:peers i386 end -->',
      '<!-- bench:peers amd64 begin -->kept<!-- bench:peers amd64 end -->',
    ].join('\n');
    const replaced = replaceBlock(document, 'i386', 'new\n');
    expect(readBlock(replaced, 'i386').trim()).toBe('new');
    expect(readBlock(replaced, 'amd64')).toBe('kept');
    expect(replaceBlock(replaced, 'i386', 'new')).toBe(replaced);
    expect(() => replaceBlock('nothing', 'i386', 'new')).toThrow('no marks');
  });
});

describe('options', () => {
  test('lists are checked and put in the order of the table', () => {
    expect(parseOptions([])).toMatchObject({ rounds: 5, guests: ['i386', 'amd64'], write: false });
    expect(
      parseOptions(['--only', 'amd64', '--peers', 'switchyard,qemu', '--rows', 'sort,boot']),
    ).toMatchObject({ guests: ['amd64'], peers: ['qemu', 'switchyard'], rows: ['boot', 'sort'] });
    expect(parseOptions(['--cli-args=--tier 0'])).toMatchObject({ cliArguments: ['--tier', '0'] });
    expect(parseOptions(['--help'])).toBeUndefined();
  });

  test.each([
    [['--rounds', '0'], '--rounds'],
    [['--rows', 'sort,sorted'], 'sorted'],
    [['--peers', ''], '--peers'],
    [['--write', '--rows', 'boot'], '--write'],
    [['--unknown'], '--unknown'],
  ])('%j is refused', (args, complaint) => {
    expect(() => parseOptions(args)).toThrow(UsageError);
    expect(() => parseOptions(args)).toThrow(complaint);
  });
});

test('a mapping is found by its size, a little room included', () => {
  const maps = [
    '00400000-00500000 r-xp 00000000 fe:00 1  /bin/program',
    '10000000-20000000 r--p 00000000 00:00 0',
    '7f0000000000-7f0010000000 rw-p 00000000 00:00 0',
    '7f1000000000-7f1010010000 rw-p 00000000 00:00 0',
  ].join('\n');
  expect(findMapping(maps, 0x1000_0000)).toBe(0x7f00_0000_0000);
  expect(findMapping(maps, 0x1000_f000)).toBe(0x7f10_0000_0000);
  expect(findMapping(maps, 0x2000_0000)).toBeUndefined();
});

test('the smallest program is an executable of its architecture', () => {
  const small = Buffer.from(smallestProgram('i386'));
  expect(small.length).toBe(52 + 32 + 9);
  expect([small.readUInt8(4), small.readUInt16LE(18), small.readUInt32LE(24)]).toEqual([1, 3, 0x400054]);
  const wide = Buffer.from(smallestProgram('amd64'));
  expect(wide.length).toBe(64 + 56 + 9);
  expect([wide.readUInt8(4), wide.readUInt16LE(18), wide.readBigUInt64LE(24)]).toEqual([2, 62, 0x400078n]);
});
