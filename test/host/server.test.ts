import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { ApiClient, type Transport } from '../../src-core/protocol/client.ts';
import { WindowServer } from '../../src-main/server/server.ts';
import { openTestHost, temporaryDirectory } from './support.ts';

let directory: ReturnType<typeof temporaryDirectory>;
let opened: ReturnType<typeof openTestHost>;
let server: WindowServer;
let address: URL;
beforeAll(async () => {
  directory = temporaryDirectory();
  const files = join(directory.path, 'renderer');
  mkdirSync(join(files, 'assets'), { recursive: true });
  writeFileSync(join(files, 'index.html'), '<!doctype html><title>window</title>');
  writeFileSync(join(files, 'assets/app.js'), 'export {};');
  writeFileSync(join(directory.path, 'secret.txt'), 'secret');
  opened = openTestHost(join(directory.path, 'data'));
  server = new WindowServer(opened.host, files);
  address = new URL(await server.listen(0));
});
afterAll(async () => {
  server.close();
  await opened.close();
  directory.remove();
});

const api = (token: string | null): string =>
  `ws://${address.host}/api${token === null ? '' : `?token=${token}`}`;
const token = (): string => address.searchParams.get('token') ?? '';

/** How an attempt to open a WebSocket ends: "open" or the HTTP status. */
function attempt(url: string, headers: Record<string, string>): Promise<string> {
  return new Promise((resolve) => {
    const socket = new WebSocket(url, { headers });
    socket.on('open', () => {
      socket.close();
      resolve('open');
    });
    socket.on('unexpected-response', (_request, response) => resolve(String(response.statusCode)));
    socket.on('error', (error) => resolve(error.message));
  });
}

describe('the WebSocket', () => {
  test('opens for our page with the token', async () => {
    expect(await attempt(api(token()), { origin: address.origin })).toBe('open');
  });

  test.each([
    ['no token', () => api(null), {}],
    ['a wrong token', () => api('A'.repeat(32)), {}],
    ['a token that is nearly right', () => api(`${token().slice(0, -1)}!`), {}],
    ['another origin', () => api(token()), { origin: 'https://example.org' }],
    ['another port of this host', () => api(token()), { origin: 'http://127.0.0.1:1' }],
    ['a null origin', () => api(token()), { origin: 'null' }],
    [
      'a name made to resolve to us',
      () => api(token()),
      { origin: 'http://evil.example', host: 'evil.example' },
    ],
    ['another path', () => api(token()).replace('/api', '/'), {}],
  ])('refuses %s', async (_name, url, headers) => {
    expect(await attempt(url(), { origin: address.origin, ...headers })).toBe('403');
  });

  test('refuses a client without an origin', async () => {
    expect(await attempt(api(token()), {})).toBe('403');
  });

  test('carries the API', async () => {
    const socket = new WebSocket(api(token()), { headers: { origin: address.origin } });
    await new Promise((resolve) => socket.on('open', resolve));
    const transport: Transport = {
      send: (message) => socket.send(JSON.stringify(message)),
      onMessage: () => undefined,
      onClose: () => undefined,
    };
    const client = new ApiClient(transport);
    socket.on('message', (data: Buffer) => transport.onMessage(JSON.parse(data.toString('utf8'))));
    socket.on('close', () => transport.onClose());
    expect(await client.call('hostInfo', {})).toMatchObject({ shell: 'server', nativeFileDialog: false });
    const listing = await client.call('browseFiles', { path: directory.path });
    expect(listing.entries.map(({ name, kind }) => [name, kind])).toEqual([
      ['data', 'directory'],
      ['renderer', 'directory'],
      ['secret.txt', 'file'],
    ]);
    await expect(client.call('browseFiles', { path: '/no/such/place' })).rejects.toMatchObject({
      code: 'file',
    });
    await expect(client.call('pickFile', { title: 'x', startPath: null })).rejects.toMatchObject({
      code: 'unavailable',
    });
    socket.send('this is not JSON');
    await new Promise((resolve) => socket.on('close', resolve));
    await expect(client.call('listVms', {})).rejects.toMatchObject({ code: 'disconnected' });
  });
});

describe('HTTP', () => {
  test('serves the page for the token only, under a strict policy', async () => {
    const page = await fetch(address);
    expect(await page.text()).toContain('<title>window</title>');
    const policy = page.headers.get('content-security-policy') ?? '';
    expect(policy).toContain("default-src 'none'");
    expect(policy).toContain("script-src 'self';");
    expect(policy).toContain("frame-ancestors 'none'");
    expect(page.headers.get('referrer-policy')).toBe('no-referrer');
    expect((await fetch(new URL('/', address))).status).toBe(403);
  });

  test('serves the built files and nothing else', async () => {
    const script = await fetch(new URL('/assets/app.js', address));
    expect(script.headers.get('content-type')).toContain('text/javascript');
    for (const path of [
      '/..%2fsecret.txt',
      '/%2e%2e/secret.txt',
      '/assets',
      '/missing',
      '/%00',
      '/%E0%A4%A',
    ]) {
      expect((await fetch(`${address.origin}${path}`)).status, path).toBe(404);
    }
    expect((await fetch(new URL('/assets/app.js', address), { method: 'POST' })).status).toBe(405);
  });
});
