import type { ChannelOptions } from '@grpc/grpc-js'

/** Largest message, either way; gRPC's own default for what is received. */
export const MESSAGE_MAX_BYTES: number = 4 * 1024 * 1024

/** Largest request over TLS. What is larger is asked for in parts. */
export const REQUEST_MAX_BYTES: number = 256 * 1024

/** Calls that a server works on at once: unary ones and streams each. Beyond it a call is refused with `OverloadedError`. */
export const CALLS_AT_ONCE_MAX = 1024

/**
 * Of them, those of one identity, those whose answer it has not taken as well: nobody takes more than a quarter of a server, nor
 * more of its memory than this many answers.
 */
export const CALLS_OF_ONE_MAX = 256

/** Calls of one connection at once (SETTINGS_MAX_CONCURRENT_STREAMS); a client keeps those beyond it waiting. */
export const STREAMS_OF_CONNECTION_MAX = 100

/** Messages of a stream that wait for a slow reader. Its handler makes no more before it has read one. */
export const MESSAGES_WAITING_MAX = 2

/** Connections of a server at once whose peer is known. */
export const CONNECTIONS_MAX = 4096

/** Of them, those of one identity. */
export const CONNECTIONS_OF_ONE_MAX = 64

/**
 * Beside them, TCP connections of a listener whose peer is not known: during their handshake, or, where callers show no
 * certificate, as long as they live. There each may have two requests of 32 KiB half said: 128 MiB in all.
 */
export const STRANGERS_MAX = 2048

/** Of them, those of one source: a whole fleet may join from behind one address. */
export const STRANGERS_OF_SOURCE_MAX = 1024

/** Connections that are being told why they are refused, at once. Beyond it they are closed without a word. */
export const REFUSALS_AT_ONCE_MAX = 64

/** A refused connection is closed after this, whether it has listened or not. */
export const REFUSAL_MS = 1000

/**
 * A client gives up a TCP connection after half of this to all of it, and tries again: so a server that is back is found within it.
 * 10,000 clients that have lost a server ask for it with some 10,000 SYN a second, and come back over 4 seconds.
 */
export const CONNECT_MAX_MS = 4000

/** A TLS handshake takes this long at most; also that of a client with a server that says nothing. */
export const HANDSHAKE_MAX_MS = 5000

/** A connection without a certificate lives this long at most: enrolment is one call. */
export const UNKNOWN_CALLER_MAX_MS = 30_000

/** Of that, this long without a request that has been said to its end. */
export const UNKNOWN_CALLER_IDLE_MAX_MS = 5000

/** A connection whose peer is refused from now on is closed after this, when its calls have been told. */
export const END_GRACE_MS = 100

/** What a refused caller is told to wait before it tries again. */
export const RETRY_AFTER_MS = 200

/** A stopping server gives running calls this long. */
export const STOP_GRACE_MS = 5000

/** Channel options of clients and servers alike. */
export const CHANNEL_OPTIONS: ChannelOptions = {
  'grpc.max_receive_message_length': MESSAGE_MAX_BYTES,
  'grpc.max_send_message_length': MESSAGE_MAX_BYTES,
  /** Keeps a history of every channel and call in memory that nobody reads. */
  'grpc.enable_channelz': 0,
}

/** Of servers over TLS, whose callers are only trusted as far as their rules go. */
export const GUARDED_SERVER_OPTIONS: ChannelOptions = {
  ...CHANNEL_OPTIONS,
  'grpc.max_receive_message_length': REQUEST_MAX_BYTES,
  'grpc.max_concurrent_streams': STREAMS_OF_CONNECTION_MAX,
  /** In MiB; for headers and what else HTTP/2 keeps. Answers are bounded by the calls of one identity. */
  'grpc-node.max_session_memory': 16,
  /** A caller that takes nothing any more does not answer a ping either. */
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 10_000,
}

/** Of servers whose callers nobody knows: what they ask fits into a few KiB, and they ask once. */
export const UNKNOWN_CALLER_SERVER_OPTIONS: ChannelOptions = {
  ...GUARDED_SERVER_OPTIONS,
  'grpc.max_receive_message_length': 32 * 1024,
  'grpc.max_concurrent_streams': 2,
  'grpc-node.max_session_memory': 1,
}
