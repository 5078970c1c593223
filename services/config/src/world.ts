import type { Authorise, World } from '@weft/access'
import { CertificateRefusedError, UnavailableError } from '@weft/errors'
import type { Peer } from '@weft/identity'
import type { Database } from './domain/database.ts'
import { mayCarry } from './domain/requests/hosts.ts'

/** What the rules of access have to know, as the VN database has it. */
export function worldOf(database: Database): World {
  return {
    tenantIdOf: (name) => database.tenantNames.get(name),
    tenantOfNetwork: (id) => database.network(id)?.tenantId,
    tenantOfEndpoint: (id) => database.network(database.endpoint(id)?.networkId ?? 0)?.tenantId,
    grantsOf: (userId) => database.user(userId)?.grants ?? [],
    mayCarry(hostId, tenantId) {
      const host = database.host(hostId)
      return host !== undefined && host.revokedAtUnixMs === 0n && mayCarry(host, tenantId)
    },
  }
}

/** Judges a call only if the caller's key is that of its record: a certificate outlives the key's replacement by hours. */
export function knownCallers(database: Database, authorise: Authorise): Authorise {
  return (call) => {
    if (call.caller) checkKey(database, call.caller)
    return authorise(call)
  }
}

/**
 * Void keys are refused with their connections, but for those that only this replica takes for void. A key that nobody has
 * and that is not void was given to its holder a moment ago, by another replica.
 */
function checkKey({ members }: Database, { identity, publicKey }: Peer): void {
  if (identity.kind === 'service') return
  if (members.isRevoked(publicKey, Date.now())) {
    const subject = `the certificate of ${identity.kind} ${identity.id}`
    throw new CertificateRefusedError({ reason: 'revoked', subject })
  }
  const holder = members.holderOf(publicKey)
  if (holder?.kind === identity.kind && holder.id === identity.id) return
  if (members.revokedAt(publicKey) !== undefined) return
  throw new UnavailableError({
    service: 'config',
    address: 'this replica',
    problem: `it does not know the key of ${identity.kind} ${identity.id} yet`,
  })
}
