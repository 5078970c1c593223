import { createHash, type KeyObject } from 'node:crypto'
import { newBusKeys, openBusSeed } from '@weft/bus/operator'
import { generateIdentityKey, generateTunnelKey, publicKeyOf, signTunnelKey } from '@weft/identity'
import type { PublicKeys } from '@weft/proto/weftline/identity/v1/identity.ts'
import type { MemberKeys } from './identity-folder.ts'

/** New keys of a host: identity, tunnel and bus. */
export function newHostKeys(): MemberKeys {
  return {
    identity: generateIdentityKey(),
    tunnel: generateTunnelKey(),
    busSeed: newBusKeys('user').seed,
  }
}

/** New keys of a service, which has no tunnels. */
export function newServiceKeys(): MemberKeys {
  return { identity: generateIdentityKey(), tunnel: undefined, busSeed: newBusKeys('user').seed }
}

/** New keys of a user, who has no business on the bus. */
export function newUserKeys(): MemberKeys {
  return { identity: generateIdentityKey(), tunnel: undefined, busSeed: undefined }
}

/** An idempotency key that is the same for the same keys, so that a repetition is known as one. */
export function idempotencyKeyOf({ identity }: MemberKeys): string {
  return createHash('sha256').update(publicKeyOf(identity)).digest('hex').slice(0, 32)
}

/** What others may know of a member's keys. `previous`: the tunnel key that these take the place of. */
export function publicKeysOf(
  { identity, tunnel, busSeed }: MemberKeys,
  previous?: { readonly tunnelKey: KeyObject; readonly untilUnixMs: number },
): PublicKeys {
  return {
    identity: publicKeyOf(identity),
    tunnel: tunnel === undefined ? Buffer.alloc(0) : publicKeyOf(tunnel),
    bus: busSeed === undefined ? '' : openBusSeed('user', busSeed).publicKey,
    tunnelStatement: tunnel && signTunnelKey(tunnel, identity, previous),
  }
}
