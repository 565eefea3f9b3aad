// Vitest reporter: leaves what scripts/test.mjs sums up (counts, and what was skipped and why) in a JSON file.
import { writeFileSync } from 'node:fs';

export default class SumReporter {
  onTestRunEnd(modules, unhandledErrors) {
    const sum = { passed: 0, failed: unhandledErrors.length, skipped: [] };
    for (const module of modules) {
      // A file that could not even be loaded has no tests to fail.
      if (
        module.state() === 'failed' &&
        [...module.children.allTests()].every((test) => test.result().state !== 'failed')
      ) {
        sum.failed++;
      }
      for (const test of module.children.allTests()) {
        const result = test.result();
        if (result.state === 'passed') sum.passed++;
        else if (result.state === 'failed') sum.failed++;
        else
          sum.skipped.push({
            name: `${module.relativeModuleId}: ${test.fullName}`,
            reason: result.note ?? '',
          });
      }
    }
    writeFileSync(process.env.SWITCHYARD_TEST_SUM, JSON.stringify(sum));
  }
}
