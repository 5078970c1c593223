import { Host, Token, User } from '@weft/proto/weftline/config/v1/records.ts'
import type { Database, Kind, Write } from './database.ts'

/** So long ago that nobody is told of it: it is only about this replica. */
const LONG_AGO_UNIX_MS = 1n

/**
 * What a record comes to that is there and cannot be read. It is not absent: a host is as if it was revoked, a user has no key
 * and no rights, a token is used. Of all else what was known before counts, which undefined stands for: a key that is void
 * stays void, and an endpoint keeps its addresses.
 */
export function distrusted(database: Database, kind: Kind, id: number): Write | undefined {
  const name = `unreadable-${id}`
  switch (kind) {
    case 'host': {
      const host = database.host(id) ?? Host.create({ id, name })
      const revokedAtUnixMs = host.revokedAtUnixMs || LONG_AGO_UNIX_MS
      return { kind, id, record: { ...host, revokedAtUnixMs } }
    }
    case 'user': {
      const user = database.user(id) ?? User.create({ id, name })
      return { kind, id, record: { ...user, identityKey: Buffer.alloc(0), grants: [] } }
    }
    case 'token': {
      const token = database.token(id) ?? Token.create({ id })
      return { kind, id, record: { ...token, expiresAtUnixMs: 0n } }
    }
    case 'tenant':
    case 'zone':
    case 'network':
    case 'endpoint':
    case 'revokedKey':
    case 'statement':
      return undefined
  }
}
