export declare const VM_NODE_FLAGS: readonly string[];
export declare function vmEnvironment(): NodeJS.ProcessEnv;
export declare function sourceEnvironment(): NodeJS.ProcessEnv;
