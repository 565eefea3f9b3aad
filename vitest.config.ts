import { defineConfig } from 'vitest/config';

/** Every test file gets a process: a leaked VM or a crash in native code stays there. */
const common = { environment: 'node', pool: 'forks' } as const;

/** The parts `npm test` runs one by one (scripts/test.mjs). Guests and browsers share two cores badly, so they go file by file. */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          ...common,
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: ['test/{guests,oracle,fuzz,e2e}/**'],
          testTimeout: 30_000,
        },
      },
      {
        test: {
          ...common,
          name: 'oracle',
          include: ['test/{oracle,fuzz}/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 600_000,
        },
      },
      {
        test: {
          ...common,
          name: 'guests',
          include: ['test/guests/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 600_000,
          hookTimeout: 600_000,
        },
      },
      {
        test: {
          ...common,
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          fileParallelism: false,
          // A window on a busy machine answers late; one that does not answer at all is as wrong after this time.
          expect: { poll: { timeout: 15_000 } },
          testTimeout: 600_000,
          hookTimeout: 600_000,
        },
      },
    ],
  },
});
