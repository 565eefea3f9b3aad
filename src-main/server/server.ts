import { randomBytes, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { WebSocketServer, type RawData, type WebSocket } from 'ws';
import type { Host } from '../host/host.ts';
import { contentSecurityPolicy, refuse, serveStatic } from './static.ts';

/** Loopback only: this server runs programs for whoever may talk to it. */
const ADDRESS = '127.0.0.1';
/** Largest message taken from a window, bytes. */
const MESSAGE_BYTES_MAX = 8 * 1024 * 1024;
/** A window that lets this much pile up is cut off (it reconnects and starts over), bytes. */
const BACKLOG_BYTES_MAX = 64 * 1024 * 1024;

/** The window's files and the API over HTTP and WebSocket, for one host. */
export class WindowServer {
  readonly #host: Host;
  readonly #directory: string;
  readonly #token = randomBytes(24).toString('base64url');
  readonly #http: Server;
  readonly #sockets = new WebSocketServer({ noServer: true, maxPayload: MESSAGE_BYTES_MAX });
  #port = 0;

  /** @param directory the built window (out/renderer). */
  constructor(host: Host, directory: string) {
    this.#host = host;
    this.#directory = directory;
    this.#http = createServer((request, response) => this.#serve(request, response));
    this.#http.on('upgrade', (request, socket, head) => {
      const refusal = this.#refusal(request);
      if (refusal !== undefined) {
        socket.end(
          `HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n${refusal}\n`,
        );
        return;
      }
      this.#sockets.handleUpgrade(request, socket, head, (webSocket) => this.#accept(webSocket));
    });
  }

  /** Starts to listen. @param port 0 for any free one. @returns the address to open, token included. */
  listen(port: number): Promise<string> {
    return new Promise((resolve, reject) => {
      this.#http.once('error', reject);
      this.#http.listen(port, ADDRESS, () => {
        this.#http.off('error', reject);
        const address = this.#http.address();
        if (address === null || typeof address === 'string') throw new Error('the server has no port');
        this.#port = address.port;
        resolve(`http://${ADDRESS}:${this.#port}/?token=${this.#token}`);
      });
    });
  }

  close(): void {
    for (const socket of this.#sockets.clients) socket.close(1001, 'Switchyard is closing');
    this.#http.close();
    this.#http.closeAllConnections();
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    if (!this.#isOurHost(request)) {
      refuse(response, 403, 'This server answers on the loopback address only.');
      return;
    }
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://localhost');
    if (pathname === '/' && !this.#isToken(searchParams.get('token'))) {
      refuse(response, 403, 'Please use the whole address that Switchyard printed, with its token.');
      return;
    }
    const policy = contentSecurityPolicy(`'self' ws://${request.headers.host ?? ''}`);
    serveStatic(this.#directory, policy, request, response);
  }

  /** Why a WebSocket is refused; undefined when it is welcome. */
  #refusal(request: IncomingMessage): string | undefined {
    if (!this.#isOurHost(request)) return 'wrong host';
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://localhost');
    if (pathname !== '/api') return 'wrong path';
    // Any page the user's browser has open can try to connect here; only ours may.
    if (request.headers.origin !== `http://${request.headers.host ?? ''}`) return 'wrong origin';
    return this.#isToken(searchParams.get('token')) ? undefined : 'wrong token';
  }

  /** A page from elsewhere whose name was made to resolve to us (DNS rebinding) has its own name in Host. */
  #isOurHost(request: IncomingMessage): boolean {
    const { host } = request.headers;
    return host === `${ADDRESS}:${this.#port}` || host === `localhost:${this.#port}`;
  }

  #isToken(candidate: string | null): boolean {
    const given = Buffer.from(candidate ?? '');
    const wanted = Buffer.from(this.#token);
    return given.length === wanted.length && timingSafeEqual(given, wanted);
  }

  #accept(socket: WebSocket): void {
    const connection = this.#host.connect((message) => {
      if (socket.readyState !== socket.OPEN) return;
      if (socket.bufferedAmount > BACKLOG_BYTES_MAX) socket.terminate();
      else socket.send(JSON.stringify(message));
    });
    socket.on('message', (data: RawData, isBinary: boolean) => {
      const message = isBinary ? undefined : parseJson(data);
      if (message === undefined) {
        socket.close(1003, 'one JSON text per frame, please');
        return;
      }
      void connection.receive(message);
    });
    // `close` follows; there is nothing else to do about a broken connection.
    socket.on('error', () => undefined);
    socket.on('close', () => this.#host.disconnect(connection));
  }
}

function parseJson(data: RawData): unknown {
  try {
    const bytes = Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data as Buffer);
    return JSON.parse(bytes.toString('utf8')) as unknown;
  } catch {
    return undefined;
  }
}
