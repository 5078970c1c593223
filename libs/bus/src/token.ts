/** What stands for one sender, receiver or thing in a subject. */
export type Id = string | number | bigint

/** An id as one token of a subject. @throws RangeError if it is several or a wildcard: it would widen the subject. */
export function token(id: Id): string {
  const text = String(id)
  if (!/^[\w-]+$/.test(text)) throw new RangeError(`${JSON.stringify(text)} cannot be a token`)
  return text
}
