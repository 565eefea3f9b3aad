import { z } from 'zod';

// To be imported before any schema is made: the content security policy forbids code from strings, which zod
// would otherwise probe for when an object schema is constructed.
z.config({ jitless: true });
