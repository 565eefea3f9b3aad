import { z } from 'zod';

/**
 * The envelope every message between the window and the host travels in. The messages are plain JSON: Electron's
 * MessagePort carries the objects, the server's WebSocket carries `JSON.stringify` of the same objects, one per
 * text frame.
 *
 * How the window connects:
 * - Server shell: the page's address is `http://127.0.0.1:PORT/?token=TOKEN`; the WebSocket is
 *   `ws://127.0.0.1:PORT/api?token=TOKEN`.
 * - Electron shell: the preload script puts `window.switchyardElectron` there. After `connect()` a `message` event
 *   reaches the window (source: the window itself) with data PORT_MESSAGE and the MessagePort as `ports[0]`.
 */
export { PORT_MESSAGE } from './port.ts';

/** Stable error codes; what they mean for a person stands in `message`, what to do about it in `hint`. */
export const ERROR_CODES = [
  /** The message is not of the protocol. */
  'badRequest',
  /** A VM configuration has errors; `fields` has them one by one. */
  'invalidConfig',
  /** The VM, snapshot or subscription does not exist (any more). */
  'notFound',
  /** The command makes no sense in the VM's present state. */
  'wrongState',
  /** A file is missing, unreadable or not what it should be. */
  'file',
  /** This host or shell cannot do it; `message` says why. */
  'unavailable',
  /** The VM's process ended while the command was under way. */
  'vmProcessEnded',
  /** The user cancelled the operation. */
  'cancelled',
  /** The connection to the host is gone. */
  'disconnected',
  /** A fault in Switchyard itself. */
  'internal',
] as const;
export const errorCodeSchema = z.enum(ERROR_CODES);
export type ErrorCode = z.infer<typeof errorCodeSchema>;

/** One error in one field of a form. */
export const fieldErrorSchema = z.object({
  /** Name of the field in the configuration ("memoryMib", "kernel"). */
  field: z.string(),
  message: z.string(),
  /** What would make it right, where that is known. */
  hint: z.string().optional(),
});
export type FieldError = z.infer<typeof fieldErrorSchema>;

export const apiErrorSchema = z.object({
  code: errorCodeSchema,
  message: z.string(),
  hint: z.string().optional(),
  fields: z.array(fieldErrorSchema).optional(),
});
export type ApiErrorData = z.infer<typeof apiErrorSchema>;

/** An error that crosses the API with its code, hint and field errors intact. */
export class ApiError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly fields: FieldError[] | undefined;

  constructor(data: ApiErrorData, options?: ErrorOptions) {
    super(data.message, options);
    this.name = 'ApiError';
    this.code = data.code;
    this.hint = data.hint;
    this.fields = data.fields;
  }

  toData(): ApiErrorData {
    return {
      code: this.code,
      message: this.message,
      ...(this.hint === undefined ? {} : { hint: this.hint }),
      ...(this.fields === undefined ? {} : { fields: this.fields }),
    };
  }

  /** Any thrown value as an ApiError; what is not one already becomes `internal` with the original as cause. */
  static from(error: unknown): ApiError {
    if (error instanceof ApiError) return error;
    const message = error instanceof Error ? error.message : String(error);
    return new ApiError({ code: 'internal', message }, { cause: error });
  }
}

/** Window to host: call `method`. The host answers with a response of the same `id`. */
export const requestSchema = z.object({
  /** Chosen by the caller, unique among its calls under way. */
  id: z.number().int().nonnegative(),
  method: z.string(),
  params: z.unknown(),
});
export type RequestMessage = z.infer<typeof requestSchema>;

/** Host to window: the answer to a request, `result` or `error`. */
export const responseSchema = z.union([
  z.object({ id: z.number().int().nonnegative(), error: apiErrorSchema }),
  z.object({ id: z.number().int().nonnegative(), result: z.unknown() }),
]);
export type ResponseMessage = { id: number; result: unknown } | { id: number; error: ApiErrorData };

/** Host to window: something happened. */
export const eventMessageSchema = z.object({ event: z.string(), data: z.unknown() });
export type EventMessage = { event: string; data: unknown };
