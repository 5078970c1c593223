import { openTunnelKey } from '@weft/identity'
import { CANDIDATES_MAX, CARRIER_SEALED } from '@weft/net'
import { HostKind } from '@weft/proto/weftline/config/v1/records.ts'
import type { PeerRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { candidateFrom } from './decode.ts'
import type { PeerSealing } from './domain/rows.ts'

/**
 * What a peer's row says of its sealed transport. The tunnel key counts by the word of the host alone: whoever writes rows
 * cannot make one that a host with this identity key did not sign. Undefined for a host that does not seal, or did not say so.
 */
export function sealingFrom(row: PeerRow): PeerSealing | undefined {
  const { kind, capabilities, tunnelStatement, identityKey, tunnelKey, candidates } = row
  if (kind !== HostKind.HOST_KIND_WEFT || !capabilities.includes(CARRIER_SEALED)) return undefined
  try {
    const { previous } = openTunnelKey(tunnelStatement, identityKey, tunnelKey)
    return {
      tunnelKey: tunnelKey.toString('hex'),
      previous: previous && {
        tunnelKey: previous.tunnelKey.toString('hex'),
        untilMs: previous.untilUnixMs,
      },
      candidates: candidates.slice(0, CANDIDATES_MAX).flatMap(candidateFrom),
    }
  } catch {
    return undefined
  }
}
