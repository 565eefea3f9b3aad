import { fileURLToPath } from 'node:url';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'electron-vite';

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  main: {
    build: {
      outDir: 'out/main',
      // Programs of their own, run as utility processes: of one VM, and the one that tries the hardware out.
      rolldownOptions: {
        input: {
          electron: at('src-main/electron.ts'),
          'vm-process': at('src-main/vm-process.ts'),
          probe: at('src-core/engines/hardware/probe/child.ts'),
        },
      },
    },
  },
  preload: {
    build: {
      outDir: 'out/preload',
      rolldownOptions: {
        input: { preload: at('src-main/preload.ts') },
        // Sandboxed preload scripts cannot load modules.
        output: { format: 'cjs', entryFileNames: '[name].cjs' },
      },
    },
  },
  renderer: {
    root: at('src-renderer'),
    plugins: [svelte()],
    build: {
      outDir: at('out/renderer'),
      emptyOutDir: true,
      rolldownOptions: { input: at('src-renderer/index.html') },
    },
  },
});
