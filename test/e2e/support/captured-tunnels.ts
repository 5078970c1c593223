/**
 * What somebody tries with the tunnels of others who has taken a host that is still a member, with all its keys: reads rows
 * of the directory, its own and another host's, and asks for a certificate that says that another host's tunnel key is its
 * own. Prints a line of JSON with the outcomes.
 *
 * Arguments: identity folder, `HOST:PORT` of config, URL of the bus, id of another host, and tunnel keys of others in
 * hexadecimal digits: the first is the one to claim, and all are looked for in the rows.
 */
import { createPublicKey } from 'node:crypto'
import { buckets, connectBus, hostRowPrefix } from '@weft/bus'
import { newBusKeys } from '@weft/bus/operator'
import { openCredentials, readIdentity } from '@weft/domain'
import { publicKeysOf } from '@weft/domain/enrolment'
import { asWeftError } from '@weft/errors'
import { generateIdentityKey, signStatement } from '@weft/identity'
import {
  CertificateServiceService,
  RotationStatement,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import { SignedHostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { PublicKeys } from '@weft/proto/weftline/identity/v1/identity.ts'
import { connect } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'

const READ_FOR_MS = 2000

const [folder = '', config = '', busUrl = '', otherHostId = '', ...tunnelKeys] =
  process.argv.slice(2)
const log = createLogger({ service: 'captured', level: 'silent' })
const stored = await readIdentity(folder)
if (stored === undefined) throw new Error(`${folder} holds no identity`)
const { keys, identity } = stored
const ownId = identity.kind === 'host' ? identity.id : 0
await using credentials = await openCredentials({ folder, renew: 'watch', log })

console.log(
  JSON.stringify({
    own: await read(ownId),
    other: await read(Number(otherHostId)),
    claim: await claim(),
  }),
)

/** How many rows there are under the prefix of a host, and which of the tunnel keys are in them. */
async function read(
  hostId: number,
): Promise<{ readonly rows: number; readonly keys: readonly string[] }> {
  const found = new Set<string>()
  let rows = 0
  try {
    const options = { servers: [busUrl], credentials, name: `forwarder-${ownId}`, log }
    await using bus = await connectBus(options)
    const bucket = await bus.openBucket(buckets.hosts, SignedHostRow, { access: 'watch' })
    const signal = AbortSignal.timeout(READ_FOR_MS)
    for await (const batch of bucket.watch(hostRowPrefix(hostId), { signal })) {
      for (const event of batch) {
        if (event.kind !== 'put') continue
        rows++
        const bytes = Buffer.from(SignedHostRow.encode(event.value).finish())
        for (const key of tunnelKeys) if (bytes.includes(Buffer.from(key, 'hex'))) found.add(key)
      }
    }
  } catch {
    // What is refused is not read.
  }
  return { rows, keys: [...found] }
}

async function claim(): Promise<string> {
  const x = Buffer.from(tunnelKeys[0] ?? '', 'hex').toString('base64url')
  const tunnel = createPublicKey({ key: { kty: 'OKP', crv: 'X25519', x }, format: 'jwk' })
  const next = { identity: generateIdentityKey(), tunnel, busSeed: newBusKeys('user').seed }
  const newKeys = signStatement(
    'rotation-new',
    PublicKeys.encode(publicKeysOf(next)).finish(),
    next.identity,
  )
  const statement = signStatement(
    'rotation',
    RotationStatement.encode({ hostId: ownId, newKeys }).finish(),
    keys.identity,
  )
  try {
    await using client = connect(config, CertificateServiceService, {
      security: { kind: 'mutual-tls', credentials, peer: 'config' },
    })
    await client.rotateKeys({ idempotencyKey: '', statement })
    return 'done'
  } catch (error) {
    const { code, facts } = asWeftError(error)
    return [code, facts['field'] ?? ''].join(' ').trim()
  }
}
