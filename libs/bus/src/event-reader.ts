import { counter, type Logger } from '@weft/telemetry'
import type { BucketShape, Codec, WatchEvent } from './bus.ts'
import { decodeValue } from './checks.ts'

/** Damaged values that one watch has told of; beyond it all are told of again. */
const TOLD_MAX = 1024

const damagedTotal = counter<'bucket'>({
  name: 'weft_bus_values_damaged_total',
  help: 'Values of buckets that could not be read, each once in every watch, by bucket',
  labels: ['bucket'],
})

/** Makes the events of one watch out of what is stored. */
export class EventReader<T> {
  readonly #shape: BucketShape
  readonly #codec: Codec<T>
  readonly #log: Logger
  readonly #told = new Map<string, bigint>()

  constructor(shape: BucketShape, codec: Codec<T>, log: Logger) {
    this.#shape = shape
    this.#codec = codec
    this.#log = log
  }

  /** That a value was put; or that it is damaged, which is counted and logged once. */
  read(key: string, bytes: Uint8Array, revision: bigint): WatchEvent<T> {
    try {
      const value = decodeValue(this.#shape, key, this.#codec, bytes)
      return { kind: 'put', key, value, revision }
    } catch (error) {
      if (this.#told.get(key) !== revision) this.#tell(key, revision, error)
      return { kind: 'damaged', key, revision }
    }
  }

  #tell(key: string, revision: bigint, err: unknown): void {
    if (this.#told.size >= TOLD_MAX) this.#told.clear()
    this.#told.set(key, revision)
    const bucket = this.#shape.name
    damagedTotal.add(1, { bucket })
    const message = 'a stored value is damaged: write it again, or restore the store of nats-server'
    this.#log.error({ err, bucket, key, revision: String(revision) }, message)
  }
}
