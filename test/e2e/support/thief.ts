/**
 * What somebody does who has the identity folder of a host, its keys and all, but is not trusted any more. Runs where the host
 * is, and prints a line of JSON: for each thing that was tried the code of the error, or `done`.
 *
 * Arguments: identity folder, addresses of config and of its enrolment listener, URL of the bus, file with a good join token.
 */
import { readFileSync } from 'node:fs'
import { connectBus } from '@weft/bus'
import { openCredentials, readIdentity } from '@weft/domain'
import { publicKeysOf } from '@weft/domain/enrolment'
import { asWeftError } from '@weft/errors'
import { signStatement } from '@weft/identity'
import { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  CertificateServiceService,
  EnrolmentServiceService,
  JoinStatement,
  RenewalStatement,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import { connect } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'

const CONNECT_TIMEOUT_MS = 3000

const [folder = '', config = '', enrolment = '', bus = '', tokenFile = ''] = process.argv.slice(2)
const log = createLogger({ service: 'thief', level: 'silent' })
const stored = await readIdentity(folder)
if (stored === undefined) throw new Error(`${folder} holds no identity`)
const { keys, identity, rootPem } = stored
await using credentials = await openCredentials({ folder, renew: 'watch', log })
const asHost = { kind: 'mutual-tls', credentials, peer: 'config' } as const
const asNobody = { kind: 'pinned', rootPem, domain: identity.domain, peer: 'config' } as const
const hostId = identity.kind === 'host' ? identity.id : 0

const outcomes = {
  read: await outcomeOf(async () => {
    await using client = connect(config, ConfigServiceService, { security: asHost })
    await client.getServerInfo({})
  }),
  renew: await outcomeOf(async () => {
    await using client = connect(config, CertificateServiceService, { security: asHost })
    await client.renew({})
  }),
  prove: await outcomeOf(async () => {
    await using client = connect(enrolment, EnrolmentServiceService, { security: asNobody })
    const sentAtUnixMs = BigInt(Date.now())
    const payload = RenewalStatement.encode({ hostId, sentAtUnixMs }).finish()
    await client.renewExpired({ statement: signStatement('renewal', payload, keys.identity) })
  }),
  join: await outcomeOf(async () => {
    await using client = connect(enrolment, EnrolmentServiceService, { security: asNobody })
    const payload = JoinStatement.encode({
      token: readFileSync(tokenFile, 'utf8').trim(),
      name: 'thief',
      keys: publicKeysOf(keys),
      addresses: [],
      capabilities: [],
      wireVersions: [],
      sentAtUnixMs: BigInt(Date.now()),
      sealedListener: undefined,
    }).finish()
    await client.join({
      idempotencyKey: '',
      statement: signStatement('join', payload, keys.identity),
    })
  }),
  bus: await outcomeOf(async () => {
    const servers = [bus]
    const options = { servers, credentials, name: 'thief', log }
    await using _ = await connectBus({ ...options, connectTimeoutMs: CONNECT_TIMEOUT_MS })
  }),
}
console.log(JSON.stringify(outcomes))

async function outcomeOf(work: () => Promise<void>): Promise<string> {
  try {
    await work()
    return 'done'
  } catch (error) {
    return asWeftError(error).code
  }
}
