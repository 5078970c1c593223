import type { ChannelOptions } from '@grpc/grpc-js'

/** Largest message, either way; gRPC's own default for what is received. */
export const MESSAGE_MAX_BYTES: number = 4 * 1024 * 1024

/** Calls that a server works on at once: unary ones and streams each. Beyond it a call is refused with `OverloadedError`. */
export const CALLS_AT_ONCE_MAX = 1024

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
