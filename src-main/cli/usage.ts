/** A command line that cannot be carried out; ends the program with exit code 2 and this one line. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message.replaceAll(/\s*\n\s*/g, ' ').trim());
    this.name = 'UsageError';
  }
}

/** One of `choices`. @throws UsageError */
export function parseChoice<T extends string>(option: string, text: string, choices: readonly T[]): T {
  const choice = choices.find((candidate) => candidate === text);
  if (choice === undefined) throw new UsageError(`${option} must be ${choices.join(' or ')}, not "${text}"`);
  return choice;
}
