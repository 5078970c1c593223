/**
 * What somebody does who has taken config, with the directory's key and the login on the bus: signs rows of a host that put an
 * endpoint of its own into a network, with everything that such rows can have. Prints the ids of those endpoints as JSON.
 *
 * Arguments: identity folder of config, file of the directory's key, URL of the bus, id of the host, the id of a host at which
 * the endpoints are to be, their first id, and the networks that they are put into.
 */
import { readFile } from 'node:fs/promises'
import { type Bucket, buckets, connectBus, hostRowKey, hostRowPrefix } from '@weft/bus'
import { openCredentials } from '@weft/domain'
import {
  generateTunnelKey,
  identityKeyFromPem,
  publicKeyOf,
  signReport,
  signStatement,
  signTenantStatement,
} from '@weft/identity'
import { EndpointRow, HostRow, SignedHostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import { LocationChange, LocationReport } from '@weft/proto/weftline/location/v1/location.ts'
import { createLogger } from '@weft/telemetry'

const [folder = '', keyFile = '', busUrl = '', ...numbers] = process.argv.slice(2)
const [hostId = 0, atHostId = 0, firstId = 0, ...networkIds] = numbers.map(Number)
const HORIZON_MS = 600_000

const log = createLogger({ service: 'captured-config', level: 'silent' })
await using credentials = await openCredentials({ folder, renew: 'watch', log })
const directoryKey = identityKeyFromPem(await readFile(keyFile, 'utf8'))
const options = { servers: [busUrl], credentials, name: 'captured-config', log }
await using bus = await connectBus(options)
const rows = await bus.openBucket(buckets.hosts, SignedHostRow)
const known = await rowsOf(rows)

const made: number[] = []
for (const [index, networkId] of networkIds.entries()) {
  const id = firstId + index
  await vouch(networkId, id)
  await put('endpoint', id, { $case: 'endpoint', value: endpointRow(networkId, id) })
  made.push(id)
}
console.log(JSON.stringify(made))

/** Says all that a tenant could say for it, by the only key that there is. */
async function vouch(networkId: number, id: number): Promise<void> {
  const network = known.find(
    ({ row }) => row?.$case === 'network' && row.value.network?.id === networkId,
  )?.row
  if (network?.$case !== 'network') return
  const { network: record, tenantName } = network.value
  const identityKey = publicKeyOf(directoryKey)
  const tunnelKey = publicKeyOf(generateTunnelKey())
  const words: readonly NonNullable<TenantStatement['about']>[] = [
    { $case: 'key', value: { publicKey: identityKey } },
    {
      $case: 'network',
      value: { networkId, network: record?.name ?? '', vni: record?.vni ?? 0 },
    },
    {
      $case: 'membership',
      value: { networkId, hostId: atHostId, identityKey, tunnelKey, plainAddresses: [] },
    },
    {
      $case: 'delegation',
      value: { networkId, delegateKey: identityKey, prefixes: record?.prefixes ?? [] },
    },
  ]
  for (const [index, about] of words.entries()) {
    const isKey = about.$case === 'key'
    const content = TenantStatement.create({
      domain: credentials.identity.domain,
      tenantId: record?.tenantId ?? 0,
      tenant: tenantName,
      number: isKey ? 2n : BigInt(Date.now()) * 2n,
      notAfterUnixMs: isKey ? 0n : BigInt(Date.now() + HORIZON_MS),
      about,
    })
    const statement = signTenantStatement(content, directoryKey)
    const statementId = firstId + 100 + (id - firstId) * words.length + index
    await put('statement', statementId, {
      $case: 'statement',
      value: { id: statementId, statement },
    })
  }
}

function endpointRow(networkId: number, id: number): EndpointRow {
  const addresses = [Buffer.from([10, 20, 66, id % 250])]
  const mac = Buffer.from([2, 0x66, 0, 0, 0, id % 250])
  const report = LocationReport.create({
    change: LocationChange.LOCATION_CHANGE_ATTACHED,
    endpointId: id,
    networkId,
    hostId: atHostId,
    addresses,
    mac,
    sequence: 1n,
  })
  return EndpointRow.create({
    endpointId: id,
    networkId,
    name: `captured-${id}`,
    mac,
    addresses,
    locationHostId: atHostId,
    epoch: 1n,
    placement: {
      report: Buffer.from(LocationReport.encode(signReport(report, directoryKey)).finish()),
      signerKey: publicKeyOf(directoryKey),
    },
  })
}

/** Derived from the newest state that the host knows: an older one would be refused for that alone. */
async function put(
  kind: 'endpoint' | 'statement',
  id: number,
  row: NonNullable<HostRow['row']>,
): Promise<void> {
  const newest = (of: (known: HostRow) => bigint): bigint =>
    known.reduce((most, one) => (of(one) > most ? of(one) : most), 0n)
  const message = HostRow.create({
    hostId,
    configRevision: newest(({ configRevision }) => configRevision),
    locationRevision: newest(({ locationRevision }) => locationRevision),
    notAfterUnixMs: BigInt(Date.now() + HORIZON_MS),
    row,
  })
  const payload = HostRow.encode(message).finish()
  const signed = { row: signStatement('host-row', payload, directoryKey) }
  await rows.put(hostRowKey(hostId, kind, id), signed)
}

async function rowsOf(bucket: Bucket<SignedHostRow>): Promise<HostRow[]> {
  const found: HostRow[] = []
  const stop = new AbortController()
  for await (const batch of bucket.watch(hostRowPrefix(hostId), { signal: stop.signal })) {
    for (const event of batch) {
      if (event.kind === 'put')
        found.push(HostRow.decode(event.value.row?.payload ?? Buffer.alloc(0)))
      if (event.kind === 'snapshot-end') stop.abort()
    }
  }
  return found
}
