import type { Codec } from '../src/index.ts'

/** Messages that are their own text. */
export const text: Codec<string> = {
  encode: (message) => ({ finish: () => Buffer.from(message) }),
  decode: (bytes) => Buffer.from(bytes).toString(),
}
