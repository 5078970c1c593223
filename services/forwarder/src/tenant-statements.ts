import { openPlacement, openTenantStatement } from '@weft/identity'
import type { StatementRow } from '@weft/proto/weftline/config/v1/rows.ts'
import type { Placement as PlacementMessage } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import { LocationChange } from '@weft/proto/weftline/location/v1/location.ts'
import { addressFrom, macFrom, prefixFrom } from './decode.ts'
import type { Placement, Statement, StatementAbout } from './domain/rows.ts'

/** What somebody says as a tenant, with its own end in milliseconds since 1970 (Infinity for none). */
export interface OpenedStatement {
  readonly statement: Statement
  readonly notAfterMs: number
}

/** Verifies what a tenant signed; whose key it is, is not judged here. Throws `StatementRefusedError`. */
export function statementFrom(
  { id, statement: signed }: StatementRow,
  domain: string,
): OpenedStatement {
  const { tenantId, tenant, number, notAfterUnixMs, about } = openTenantStatement(signed, domain)
  const signerKey = signed?.signerKey.toString('hex') ?? ''
  const statement = { id, tenantId, tenant, number, signerKey, about: aboutFrom(about) }
  return { statement, notAfterMs: notAfterUnixMs === 0n ? Infinity : Number(notAfterUnixMs) }
}

/** What a host says of an endpoint; undefined for what it did not sign, or for one that it does not have. */
export function placementFrom(message: PlacementMessage): Placement | undefined {
  try {
    const report = openPlacement(message)
    if (report.change !== LocationChange.LOCATION_CHANGE_ATTACHED) return undefined
    return {
      signerKey: message.signerKey.toString('hex'),
      hostId: report.hostId,
      networkId: report.networkId,
      endpointId: report.endpointId,
      mac: macFrom(report.mac),
      addresses: report.addresses.map(addressFrom),
      allowedPrefixes: report.allowedPrefixes.map(prefixFrom),
    }
  } catch {
    return undefined
  }
}

type AboutMessage = ReturnType<typeof openTenantStatement>['about']

function aboutFrom(about: AboutMessage): StatementAbout {
  switch (about?.$case) {
    case 'key':
      return { kind: 'key', publicKey: about.value.publicKey.toString('hex') }
    case 'network': {
      const { networkId, network, vni } = about.value
      return { kind: 'network', networkId, network, vni }
    }
    case 'membership': {
      const { networkId, hostId, identityKey, tunnelKey, plainAddresses } = about.value
      return {
        kind: 'membership',
        networkId,
        hostId,
        identityKey: identityKey.toString('hex'),
        tunnelKey: tunnelKey.toString('hex'),
        plainAddresses: plainAddresses.map(addressFrom),
      }
    }
    case 'delegation': {
      const { networkId, delegateKey, prefixes } = about.value
      return {
        kind: 'delegation',
        networkId,
        delegateKey: delegateKey.toString('hex'),
        prefixes: prefixes.map(prefixFrom),
      }
    }
    default:
      throw new TypeError('the statement was opened, so it is about something')
  }
}
