import type { KeyObject } from 'node:crypto'
import { StatementRefusedError } from '@weft/errors'
import { type Signed, TunnelKeyStatement } from '@weft/proto/weftline/identity/v1/identity.ts'
import { KEY_BYTES, publicKeyOf, tunnelKeyProblem } from './keys.ts'
import { openStatement, signStatement } from './signed.ts'

const PURPOSE = 'tunnel-key'

/** How long a host answers to its tunnel key of before after it got another one. */
export const TUNNEL_KEY_OVERLAP_MS: number = 10 * 60_000

/** The tunnel keys of a host, by its own word; each X25519, 32 bytes. */
export interface TunnelKeys {
  readonly tunnelKey: Buffer
  /** The one before, to which the host answers until then (milliseconds since 1970). */
  readonly previous: { readonly tunnelKey: Buffer; readonly untilUnixMs: number } | undefined
}

/** What a host says of its tunnel key, signed with its identity key. */
export function signTunnelKey(
  tunnelKey: KeyObject,
  identityKey: KeyObject,
  previous?: { readonly tunnelKey: KeyObject; readonly untilUnixMs: number },
): Signed {
  const payload = TunnelKeyStatement.encode({
    tunnelKey: publicKeyOf(tunnelKey),
    previousTunnelKey: previous === undefined ? Buffer.alloc(0) : publicKeyOf(previous.tunnelKey),
    previousUntilUnixMs: BigInt(previous?.untilUnixMs ?? 0),
  }).finish()
  return signStatement(PURPOSE, payload, identityKey)
}

/**
 * What the holder of `identityKey` (32 bytes) says of its tunnel key, which has to be `tunnelKey`.
 * @throws StatementRefusedError
 */
export function openTunnelKey(
  statement: Signed | undefined,
  identityKey: Uint8Array,
  tunnelKey: Uint8Array,
): TunnelKeys {
  const said = openStatement(PURPOSE, statement, TunnelKeyStatement, identityKey)
  if (!said.tunnelKey.equals(tunnelKey)) throw malformed('it is about another tunnel key')
  const problem = tunnelKeyProblem(said.tunnelKey)
  if (problem !== undefined) throw malformed(`the tunnel key ${problem}`)
  const { previousTunnelKey, previousUntilUnixMs } = said
  if (previousTunnelKey.length === 0) return { tunnelKey: said.tunnelKey, previous: undefined }
  const isUsable =
    previousTunnelKey.length === KEY_BYTES && tunnelKeyProblem(previousTunnelKey) === undefined
  if (!isUsable) throw malformed('the tunnel key before is none')
  const previous = { tunnelKey: previousTunnelKey, untilUnixMs: Number(previousUntilUnixMs) }
  return { tunnelKey: said.tunnelKey, previous }
}

function malformed(problem: string): StatementRefusedError {
  return new StatementRefusedError({ reason: 'malformed', purpose: PURPOSE, problem })
}
