import {
  BUCKET_TIMEOUT_MS,
  type BucketShape,
  type Codec,
  type RemoteBucket,
  type WatchBatch,
  type WatchOptions,
} from './bus.ts'
import { type BucketHost, reading } from './nats-bucket.ts'
import { RemoteStream } from './remote-stream.ts'
import { watchRemotely } from './remote-watch.ts'

/** A bucket of another account of NATS. */
export class RemoteNatsBucket<T> implements RemoteBucket<T> {
  readonly name: string
  readonly #host: BucketHost
  readonly #shape: BucketShape
  readonly #codec: Codec<T>
  readonly #stream: RemoteStream

  constructor(host: BucketHost, shape: BucketShape, codec: Codec<T>) {
    this.name = shape.name
    this.#host = host
    this.#shape = shape
    this.#codec = codec
    const { connection, jetStream } = host
    this.#stream = new RemoteStream(shape.name, connection, jetStream, BUCKET_TIMEOUT_MS)
  }

  async lastRevision(): Promise<bigint> {
    const info = await reading(this.#host, () => this.#stream.info())
    return BigInt(info?.state.last_seq ?? 0)
  }

  watch(prefix: string, options: WatchOptions): AsyncIterable<WatchBatch<T>> {
    const { connection, log, inboxPrefix, heartbeatMs } = this.#host
    const source = {
      connection,
      stream: this.#stream,
      shape: this.#shape,
      codec: this.#codec,
      log,
      inboxPrefix,
      heartbeatMs,
      onReconnect: (listener: () => void) => this.#host.onReconnect(listener),
    }
    return watchRemotely(source, prefix, options)
  }
}
