import type { KeyObject } from 'node:crypto'
import { InvalidArgumentError, StatementRefusedError } from '@weft/errors'
import type { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { type Placement, TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import { LocationReport } from '@weft/proto/weftline/location/v1/location.ts'
import { verifyReport } from './host-signature.ts'
import { identityKeyProblem, tunnelKeyProblem } from './keys.ts'
import { openStatement, signStatement } from './signed.ts'

/** Keys that one tenant may have in the course of time; a host that was away follows all of them. */
const TENANT_KEYS_MAX = 16
/** Underlay addresses of one host at which links may be plain. */
const PLAIN_ADDRESSES_MAX = 16
/** Prefixes of one delegation. */
const DELEGATED_PREFIXES_MAX = 64
/** Largest payload of a tenant's statement: 64 prefixes of 24 bytes, and room for fields that a later version may add. */
const TENANT_STATEMENT_BYTES_MAX = 4_096
/** Largest report in a placement: the addresses and prefixes of one endpoint. */
const REPORT_BYTES_MAX = 8_192
/** Of a tenant or network. */
const NAME = /^[a-z0-9-]{1,63}$/
const VNI_MAX = 0xff_ffff

/**
 * Signs what the key of a locked tenant says.
 * @throws InvalidArgumentError if nobody would believe it.
 */
export function signTenantStatement(statement: TenantStatement, key: KeyObject): Signed {
  const problem = problemOf(statement)
  if (problem !== undefined) throw new InvalidArgumentError({ field: 'statement', problem })
  return signStatement('tenant-lock', TenantStatement.encode(statement).finish(), key)
}

/**
 * What somebody signed as a tenant of the domain. Whether `signed.signerKey` is that tenant's key is for the caller to
 * judge: the tenant's chain of keys tells.
 * @throws StatementRefusedError
 */
export function openTenantStatement(signed: Signed | undefined, domain: string): TenantStatement {
  if (signed && signed.payload.length > TENANT_STATEMENT_BYTES_MAX) throw refused('too-large')
  const statement = openStatement('tenant-lock', signed, TenantStatement)
  if (statement.domain !== domain) throw refused('malformed', 'it is of another domain')
  const problem = problemOf(statement)
  if (problem !== undefined) throw refused('malformed', problem)
  return statement
}

/**
 * What a host says of an endpoint that it has, as it signed it. Whether the tenant believes `placement.signerKey` is for
 * the caller to judge.
 * @throws StatementRefusedError
 */
export function openPlacement({ report: bytes, signerKey }: Placement): LocationReport {
  if (bytes.length > REPORT_BYTES_MAX) throw refused('too-large')
  let report: LocationReport
  try {
    report = LocationReport.decode(bytes)
  } catch {
    throw refused('malformed')
  }
  verifyReport(report, signerKey)
  return report
}

/** A tenant's key that a host was told to trust before it met the tenant. */
export interface TenantKeyPin {
  readonly tenantId: number
  readonly tenant: string
  /** Its place among the tenant's keys, from 1. */
  readonly number: number
  /** Ed25519, 32 bytes. */
  readonly publicKey: Buffer
}

/** Tenants whose keys one host may be told: as many as it may be bound to, and more. */
const TENANT_PINS_MAX = 4_096

/** One line of a file of tenants' keys: `<tenant id> <tenant> <number> ed25519:<64 hexadecimal digits>`. */
export function formatTenantKey({ tenantId, tenant, number, publicKey }: TenantKeyPin): string {
  return `${tenantId} ${tenant} ${number} ed25519:${publicKey.toString('hex')}`
}

/** Parses lines of `formatTenantKey`; empty lines and those that begin with # are left out. @throws InvalidArgumentError */
export function parseTenantKeys(text: string): TenantKeyPin[] {
  const pins: TenantKeyPin[] = []
  const tenants = new Set<string>()
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue
    const pin = parseTenantKey(line.trim())
    if (!pin || tenants.has(pin.tenant) || pins.length === TENANT_PINS_MAX) {
      const problem = pin
        ? `line ${index + 1} is one too many: one a tenant, and ${TENANT_PINS_MAX} in all`
        : `line ${index + 1} is not ID TENANT NUMBER ed25519:KEY`
      const remedy = 'take the lines that weft tenant show prints'
      throw new InvalidArgumentError({ field: 'tenant keys', problem, remedy })
    }
    tenants.add(pin.tenant)
    pins.push(pin)
  }
  return pins
}

function parseTenantKey(line: string): TenantKeyPin | undefined {
  const match = /^([1-9][0-9]{0,9}) ([a-z0-9-]{1,63}) ([1-9][0-9]?) ed25519:([0-9a-f]{64})$/.exec(
    line,
  )
  const [, id, tenant = '', number, hex = ''] = match ?? []
  const pin = {
    tenantId: Number(id),
    tenant,
    number: Number(number),
    publicKey: Buffer.from(hex, 'hex'),
  }
  if (!match || pin.tenantId > 0xffff_ffff || pin.number > TENANT_KEYS_MAX) return undefined
  return identityKeyProblem(pin.publicKey) === undefined ? pin : undefined
}

/** Why nobody would believe a statement, whoever signs it; undefined if there is no reason. */
function problemOf(statement: TenantStatement): string | undefined {
  const { tenantId, tenant, number, notAfterUnixMs, about } = statement
  if (tenantId === 0 || !NAME.test(tenant)) return 'it names no tenant'
  if (number === 0n || number > BigInt(Number.MAX_SAFE_INTEGER)) return 'it has no number'
  if (notAfterUnixMs > BigInt(Number.MAX_SAFE_INTEGER)) return 'its end is no time'
  if ((notAfterUnixMs === 0n) !== (about?.$case === 'key')) {
    return about?.$case === 'key' ? 'a key has no end' : 'it has no end'
  }
  switch (about?.$case) {
    case 'key':
      return keyProblem(about.value.publicKey, number)
    case 'network': {
      const { networkId, network, vni } = about.value
      if (networkId === 0 || !NAME.test(network)) return 'it names no network'
      return vni === 0 || vni > VNI_MAX ? `${vni} is no VNI` : undefined
    }
    case 'membership': {
      const { networkId, hostId, identityKey, tunnelKey, plainAddresses } = about.value
      if (networkId === 0 || hostId === 0) return 'it names no network or no host'
      if (plainAddresses.length > PLAIN_ADDRESSES_MAX) return 'it has too many addresses'
      if (!plainAddresses.every(isAddress)) return 'an address has neither 4 nor 16 bytes'
      const problem = identityKeyProblem(identityKey) ?? tunnelKeyProblem(tunnelKey)
      return problem && `a key of the host ${problem}`
    }
    case 'delegation': {
      const { networkId, delegateKey, prefixes } = about.value
      if (networkId === 0) return 'it names no network'
      if (prefixes.length === 0) return 'it delegates nothing'
      if (prefixes.length > DELEGATED_PREFIXES_MAX) return 'it has too many prefixes'
      const isEveryOne = prefixes.every(
        ({ address, lengthBits }) => isAddress(address) && lengthBits <= address.length * 8,
      )
      if (!isEveryOne) return 'one of its prefixes is none'
      const problem = identityKeyProblem(delegateKey)
      return problem && `the key of the delegate ${problem}`
    }
    default:
      return 'this version does not know what it is about'
  }
}

function keyProblem(publicKey: Buffer, number: bigint): string | undefined {
  if (number > BigInt(TENANT_KEYS_MAX)) return `a tenant has at most ${TENANT_KEYS_MAX} keys`
  if (publicKey.length === 0) return number === 1n ? 'the first key is empty' : undefined
  const problem = identityKeyProblem(publicKey)
  return problem && `the key ${problem}`
}

function isAddress(bytes: Uint8Array): boolean {
  return bytes.length === 4 || bytes.length === 16
}

function refused(reason: 'too-large' | 'malformed', problem?: string): StatementRefusedError {
  return new StatementRefusedError({
    reason,
    purpose: 'tenant-lock',
    ...(problem !== undefined && { problem }),
  })
}
