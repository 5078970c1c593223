/** Whether two plain values (no cycles, no classes) are the same, part by part. */
export function isEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false
  const left = Object.entries(a)
  if (left.length !== Object.keys(b).length) return false
  return left.every(([key, value]) => isEqual(value, (b as { [key: string]: unknown })[key]))
}
