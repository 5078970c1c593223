import { setTimeout as delay } from 'node:timers/promises'
import { asWeftError } from '@weft/errors'
import type { Logger } from '@weft/telemetry'
import type { BucketShape, Bus } from './bus.ts'
import { NatsBus } from './connect.ts'
import { isNo, JetStreamCode, ORIGIN_CREATED, type StreamInfo } from './jetstream.ts'
import { type BucketHost, NatsBucket } from './nats-bucket.ts'

/** How often the copy is looked at; jittered, so that replicas of config do not all see the same at once. */
const CHECK_MS = 1000
/** A copy that is behind and does not get on for this long is made anew. */
const STALL_MS = 15_000

/** A bucket and its copy in the account of the hosts. */
interface MirrorOptions {
  /** May make and read the bucket. */
  readonly control: Bus
  /** May make and remove its copy. */
  readonly hostsAdmin: Bus
  readonly shape: BucketShape
  readonly log: Logger
}

/**
 * Keeps a copy of a bucket where hosts read it, until it is disposed: makes it, and makes it anew when the bucket was lost, fell
 * back, or the copy does not get on. A watch of the copy then tells `reset`. Buses in memory have no accounts: there all see
 * the bucket itself.
 */
export function keepMirror(options: MirrorOptions): AsyncDisposable {
  const { control, hostsAdmin, shape, log } = options
  if (!(control instanceof NatsBus && hostsAdmin instanceof NatsBus)) {
    return { [Symbol.asyncDispose]: async () => undefined }
  }
  const stop = new AbortController()
  const mirror = new Mirror(control.host, hostsAdmin.host, shape, log)
  const running = (async () => {
    let isTold = false
    while (!stop.signal.aborted) {
      try {
        await mirror.check()
        isTold = false
      } catch (error) {
        const err = asWeftError(error)
        if (!isTold) log.warn({ err, bucket: shape.name }, 'the copy for hosts cannot be kept')
        isTold = true
      }
      const pauseMs = CHECK_MS * (0.5 + Math.random())
      await delay(pauseMs, undefined, { signal: stop.signal }).catch(() => undefined)
    }
  })()
  return {
    async [Symbol.asyncDispose]() {
      stop.abort()
      await running
    },
  }
}

class Mirror {
  readonly #origin: NatsBucket<never>
  readonly #admin: BucketHost
  readonly #shape: BucketShape
  readonly #log: Logger
  /** How far the copy was when it last got on, or was not behind. */
  #progress = { revision: -1, atMs: 0 }

  constructor(control: BucketHost, admin: BucketHost, shape: BucketShape, log: Logger) {
    this.#origin = new NatsBucket(control, shape, NO_CODEC)
    this.#admin = admin
    this.#shape = shape
    this.#log = log
  }

  async check(): Promise<void> {
    // In this order the copy is never ahead, however fast the bucket is written.
    const copy = await this.#copy()
    const origin = await this.#origin.ensureStream()
    if (copy) {
      const problem = this.#problemOf(origin, copy)
      if (problem === undefined) return
      this.#log.warn({ bucket: this.#shape.name, problem }, 'the copy for hosts is made anew')
      await this.#admin.jetStream.deleteStream(this.#shape.name)
    }
    this.#progress = { revision: -1, atMs: performance.now() }
    await this.#admin.jetStream.createMirror(this.#shape, this.#admin.replicas, origin.created)
  }

  #problemOf(origin: StreamInfo, copy: StreamInfo): string | undefined {
    const [at, goal] = [copy.state.last_seq, origin.state.last_seq]
    if (copy.config.metadata?.[ORIGIN_CREATED] !== origin.created) return 'it is of another bucket'
    if (at > goal) return `it is at ${at}, and the bucket fell back to ${goal}`
    const nowMs = performance.now()
    if (at === goal || at !== this.#progress.revision) {
      this.#progress = { revision: at, atMs: nowMs }
    }
    if (nowMs - this.#progress.atMs > STALL_MS) return `it stays at ${at} of ${goal}`
    return undefined
  }

  async #copy(): Promise<StreamInfo | undefined> {
    try {
      return await this.#admin.jetStream.streamInfo(this.#shape.name)
    } catch (error) {
      if (isNo(error, JetStreamCode.StreamNotFound)) return undefined
      throw error
    }
  }
}

/** Values go from stream to stream; nobody here reads one. */
const NO_CODEC = {
  encode: (): never => {
    throw new TypeError('a mirror has no values')
  },
  decode: (): never => {
    throw new TypeError('a mirror has no values')
  },
}
