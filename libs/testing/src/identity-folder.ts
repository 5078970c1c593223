import type { KeyObject } from 'node:crypto'
import { writeIdentity } from '@weft/domain'
import { generateTunnelKey } from '@weft/identity'
import { Credentials, Places } from '@weft/proto/weftline/identity/v1/identity.ts'
import type { TestCredentials, TestDomain } from './domain.ts'

/** Writes down who somebody is, as joining a domain does, for a process or for `openCredentials`. */
export async function writeIdentityFolder(options: {
  readonly folder: string
  readonly domain: TestDomain
  readonly credentials: TestCredentials
  /** Of a host. */
  readonly hostName?: string
  /** Nowhere by default. */
  readonly places?: Partial<Places>
  /** Of a host; a new one by default. */
  readonly tunnelKey?: KeyObject
  /** Until when a certificate that ran out is renewed; without a limit by default. */
  readonly horizon?: Date
}): Promise<void> {
  const { folder, domain, credentials, hostName = '', places = {}, horizon } = options
  const { identity, identityKey, bus, certificate, directoryKey } = credentials
  const isHost = identity.kind === 'host'
  const keys = {
    identity: identityKey,
    tunnel: isHost ? (options.tunnelKey ?? generateTunnelKey()) : undefined,
    busSeed: bus?.seed,
  }
  const message = Credentials.create({
    domain: identity.domain,
    certificates: [certificate],
    authorities: [domain.intermediate.certificate, domain.root.certificate],
    busJwt: bus?.jwt ?? '',
    directoryKey: Buffer.from(directoryKey),
    places: Places.create(places),
    hostId: isHost ? identity.id : 0,
    hostName,
    horizonUnixMs: BigInt(horizon?.getTime() ?? 0),
  })
  await writeIdentity(folder, keys, message)
}
