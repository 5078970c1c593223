const CHUNK_BITS = 1024
const WORD_BITS = 32
const FULL_WORD = 0xffff_ffff

interface Chunk {
  readonly words: Uint32Array
  taken: number
}

/**
 * Which of the numbers 0..count-1 are taken, with the lowest free one at hand. Chunks of 1024 bits are made when they are
 * first used, so a /64 costs no more than a /24. `lowestFree` looks at one counter per full chunk below the answer, and
 * at 32 words of one chunk: at most 65 counters for the 65,536 endpoints that a network may have.
 */
export class AddressSlots {
  readonly #count: bigint
  readonly #chunks = new Map<bigint, Chunk>()
  /** How many are taken. */
  taken = 0

  constructor(count: bigint) {
    this.#count = count
  }

  take(slot: bigint): void {
    const key = slot / BigInt(CHUNK_BITS)
    let chunk = this.#chunks.get(key)
    if (!chunk) {
      chunk = { words: new Uint32Array(CHUNK_BITS / WORD_BITS), taken: 0 }
      this.#chunks.set(key, chunk)
    }
    const { word, mask } = position(slot)
    const bits = chunk.words[word] ?? 0
    if ((bits & mask) !== 0) return
    chunk.words[word] = bits | mask
    chunk.taken++
    this.taken++
  }

  free(slot: bigint): void {
    const key = slot / BigInt(CHUNK_BITS)
    const chunk = this.#chunks.get(key)
    if (!chunk) return
    const { word, mask } = position(slot)
    const bits = chunk.words[word] ?? 0
    if ((bits & mask) === 0) return
    chunk.words[word] = bits & ~mask
    chunk.taken--
    this.taken--
    if (chunk.taken === 0) this.#chunks.delete(key)
  }

  /** Undefined if all are taken. */
  lowestFree(): bigint | undefined {
    let key = 0n
    let chunk = this.#chunks.get(key)
    while (chunk && chunk.taken === CHUNK_BITS) chunk = this.#chunks.get(++key)
    const slot = key * BigInt(CHUNK_BITS) + BigInt(chunk ? lowestClear(chunk.words) : 0)
    return slot < this.#count ? slot : undefined
  }
}

function position(slot: bigint): { word: number; mask: number } {
  const bit = Number(slot % BigInt(CHUNK_BITS))
  return { word: Math.floor(bit / WORD_BITS), mask: 1 << (bit % WORD_BITS) }
}

function lowestClear(words: Uint32Array): number {
  const word = words.findIndex((bits) => bits !== FULL_WORD)
  const clear = ~(words[word] ?? 0)
  return word * WORD_BITS + 31 - Math.clz32(clear & -clear)
}
