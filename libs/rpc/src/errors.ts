import type { OutgoingHttpHeaders } from 'node:http2'
import { Metadata, type ServiceError, type StatusObject } from '@grpc/grpc-js'
import {
  asWeftError,
  CancelledError,
  DeadlineExceededError,
  fromWire,
  GrpcStatus,
  InternalError,
  InvalidArgumentError,
  MessageTooLargeError,
  OverloadedError,
  PermissionDeniedError,
  toWire,
  UnauthenticatedError,
  UnavailableError,
  UnimplementedError,
  type WeftError,
} from '@weft/errors'
import { ErrorInfo } from '@weft/proto/weftline/common/v1/common.ts'
import { withReason } from './dials.ts'
import { CALLS_AT_ONCE_MAX, MESSAGE_MAX_BYTES, RETRY_AFTER_MS } from './limits.ts'

/** Trailing metadata that carries an `ErrorInfo`. */
const ERROR_KEY = 'weft-error-bin'

/** The status with which a server ends a call that failed. */
export function statusOf(error: unknown): StatusObject {
  const known = asWeftError(error)
  const metadata = new Metadata()
  const info = ErrorInfo.fromPartial(toWire(known))
  metadata.set(ERROR_KEY, Buffer.from(ErrorInfo.encode(info).finish()))
  if (known instanceof OverloadedError) {
    metadata.set('grpc-retry-pushback-ms', known.facts['retryAfterMs'] ?? String(RETRY_AFTER_MS))
  }
  const code: number = known.grpcStatus
  // oxlint-disable-next-line typescript/no-unsafe-enum-assignment -- the numbers of our table are gRPC's
  return { code, details: known.message, metadata }
}

/** A whole answer in HTTP/2 headers ("Trailers-Only" in the gRPC protocol): the status of an error, without gRPC's server. */
export function trailersOf(error: unknown): OutgoingHttpHeaders {
  const { code, details, metadata } = statusOf(error)
  return {
    ...metadata.toHttp2Headers(),
    ':status': 200,
    'content-type': 'application/grpc',
    'grpc-status': code,
    'grpc-message': encodeURI(details),
  }
}

/** The error that a client throws for a call that failed: the server's own, or what the status says. */
export function errorOf(error: unknown, path: string, target: string): WeftError {
  if (!isServiceError(error)) return asWeftError(error)
  const [encoded] = error.metadata.get(ERROR_KEY)
  if (encoded instanceof Buffer) return fromWire(ErrorInfo.decode(encoded))
  const { details } = error
  const code: number = error.code
  const what = path.slice(1)
  switch (code) {
    case GrpcStatus.Unavailable:
      return new UnavailableError({
        service: serviceName(path),
        address: target,
        problem: plainly(details),
      })
    case GrpcStatus.DeadlineExceeded:
      return new DeadlineExceededError({ what })
    case GrpcStatus.Cancelled:
      return new CancelledError({ what })
    case GrpcStatus.ResourceExhausted:
      // Said by gRPC itself, on either side, of a message over its limit, which is the last number in it.
      if (/larger than/i.test(details)) {
        return new MessageTooLargeError({
          what: `a message of ${what}`,
          limitBytes: Number(/([0-9]+)\D*$/.exec(details)?.[1] ?? MESSAGE_MAX_BYTES),
        })
      }
      return new OverloadedError({ what: serviceName(path), limit: CALLS_AT_ONCE_MAX })
    case GrpcStatus.Unimplemented:
      return new UnimplementedError({ what, remedy: `see that ${target} is the right address` })
    case GrpcStatus.InvalidArgument:
      return new InvalidArgumentError({ field: what, problem: details })
    case GrpcStatus.PermissionDenied:
      return new PermissionDeniedError({ what, problem: details })
    case GrpcStatus.Unauthenticated:
      return new UnauthenticatedError({ what })
    default:
      return new InternalError(`${what} failed: ${details}`, { cause: error })
  }
}

/** What hinders a connection, without the words that gRPC puts around it. */
function plainly(details: string): string {
  const problem =
    /^No connection established\. Last error: (?:Error: )?(.+?)\. Resolution note: /.exec(details)
  return withReason(problem?.[1] ?? details)
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && 'metadata' in error && error.metadata instanceof Metadata
}

/** `config` of `/weftline.config.v1.ConfigService/CreateNetwork`. */
function serviceName(path: string): string {
  return /^\/weftline\.(\w+)\./.exec(path)?.[1] ?? path.split('/')[1] ?? path
}
