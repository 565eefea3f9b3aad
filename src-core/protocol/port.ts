/** The `message` event that brings the window its MessagePort in Electron; apart from zod, for the preload script. */
export const PORT_MESSAGE = 'switchyard:port';
