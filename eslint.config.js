import eslint from '@eslint/js';
import prettier from 'eslint-config-prettier';
import svelte from 'eslint-plugin-svelte';
import globals from 'globals';
import tseslint from 'typescript-eslint';

const typed = {
  languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
};

export default tseslint.config(
  { ignores: ['node_modules/', 'out/', '.cache/', 'coverage/', 'resources/'] },
  eslint.configs.recommended,
  {
    files: ['**/*.ts', '**/*.svelte', '**/*.svelte.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    ...typed,
    rules: {
      // Numbers and booleans in messages read better than String(…) around each of them.
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      // `() => void` callbacks that return the value of a one-line call are plain style here.
      '@typescript-eslint/no-confusing-void-expression': [
        'error',
        { ignoreArrowShorthand: true, ignoreVoidReturningFunctions: true },
      ],
      // Interfaces that may be asynchronous are implemented by methods that need not be.
      '@typescript-eslint/require-await': 'off',
      // Wide switch statements over decoded fields have a default on purpose.
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      // Static-only classes and `void` types in unions are rejected; `while (true)` is not.
      'no-constant-condition': ['error', { checkLoops: false }],
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrors: 'all' },
      ],
      'no-console': 'error',
      eqeqeq: 'error',
    },
  },
  {
    // The layering of docs/ARCHITECTURE.md: the core knows no shell, no window and no database.
    files: ['src-core/**/*.ts'],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          paths: ['electron', 'better-sqlite3', 'ws', 'svelte'],
          patterns: ['**/src-main/**', '**/src-renderer/**', '@xterm/*'],
        },
      ],
      'no-restricted-globals': ['error', 'window', 'document', 'navigator', 'localStorage'],
    },
  },
  {
    // With noUncheckedIndexedAccess every read of a typed array is `number | undefined`; in the vCPU's hot paths
    // the index is known to be in range and a fallback would hide the error if it were not.
    files: [
      'src-core/x86/**/*.ts',
      'src-core/engines/**/*.ts',
      'src-core/ir/**/*.ts',
      'src-core/wasm/**/*.ts',
    ],
    rules: { '@typescript-eslint/no-non-null-assertion': 'off' },
  },
  {
    files: ['src-core/devices/**/*.ts'],
    rules: { 'no-restricted-imports': ['error', { patterns: ['**/engines/**'] }] },
  },
  {
    files: ['src-main/**/*.ts'],
    rules: { 'no-restricted-imports': ['error', { patterns: ['**/src-renderer/**'] }] },
  },
  {
    files: ['src-renderer/**/*.ts', 'src-renderer/**/*.svelte'],
    languageOptions: { globals: globals.browser },
    rules: { 'no-restricted-imports': ['error', { patterns: ['**/src-main/**', 'node:*', 'electron'] }] },
  },
  ...svelte.configs.recommended.map((config) => ({
    ...config,
    files: config.files ?? ['src-renderer/**/*.svelte'],
  })),
  {
    files: ['**/*.svelte', '**/*.svelte.ts'],
    languageOptions: {
      parserOptions: { parser: tseslint.parser, projectService: true, extraFileExtensions: ['.svelte'] },
    },
  },
  {
    // Tests and the programs beside them report on the terminal.
    files: ['test/**/*.ts'],
    rules: { 'no-console': 'off' },
  },
  {
    files: ['scripts/**/*.mjs', '*.js'],
    languageOptions: { globals: globals.node },
  },
  prettier,
  ...svelte.configs.prettier,
);
