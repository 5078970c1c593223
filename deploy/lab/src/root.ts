import { NeedsRootError } from '@weft/errors'

/**
 * A lab is made of namespaces, devices and processes of other users.
 * @throws NeedsRootError for anyone else
 */
export function requireRoot(what: string): void {
  if (process.getuid?.() !== 0) throw new NeedsRootError({ what })
}
