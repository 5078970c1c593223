/**
 * What somebody does who has taken a host that is still a member, with all its keys: asks for what is not the host's, speaks for
 * another host, and keeps a server busy. Prints a line of JSON with the outcomes.
 *
 * Arguments: identity folder, `HOST:PORT` of config and of location-resolver, URL of the bus, id of another host and of an
 * endpoint there with its network, how many streams to open and reset.
 */
import { connect as connectHttp2 } from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import { connectBus, events } from '@weft/bus'
import { openCredentials } from '@weft/domain'
import { asWeftError, fromWire } from '@weft/errors'
import { signReport } from '@weft/identity/host-signature'
import {
  ConfigServiceService,
  CreateNetworkRequest,
  CreateTokenRequest,
  DeleteHostRequest,
  ListTokensRequest,
  ListUsersRequest,
  RevokeHostRequest,
} from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  LocationChange,
  LocationReport,
  LocationReportReply,
} from '@weft/proto/weftline/location/v1/location.ts'
import { connect } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'

const AT_ONCE = 50
const PAUSE_MS = 5

const [folder = '', config = '', busUrl = '', ...numbers] = process.argv.slice(2)
const [otherHostId = 0, endpointId = 0, networkId = 0, resets = 0] = numbers.map(Number)
const log = createLogger({ service: 'captured', level: 'silent' })
await using credentials = await openCredentials({ folder, renew: 'watch', log })
const ownId = credentials.identity.kind === 'host' ? credentials.identity.id : 0

const outcomes: Record<string, string> = {}
await askConfig()
await speakOnBus()
outcomes['resets'] = await openAndReset()
console.log(JSON.stringify(outcomes))

async function askConfig(): Promise<void> {
  const security = { kind: 'mutual-tls', credentials, peer: 'config' } as const
  await using client = connect(config, ConfigServiceService, { security })
  const name = 'alpha'
  await tell('createToken', () => client.createToken(CreateTokenRequest.create({})))
  await tell('revokeHost', () => client.revokeHost(RevokeHostRequest.create({ name })))
  await tell('deleteHost', () => client.deleteHost(DeleteHostRequest.create({ name })))
  await tell('createNetwork', () => client.createNetwork(CreateNetworkRequest.create({})))
  await tell('listUsers', () => client.listUsers(ListUsersRequest.create({})))
  await tell('listTokens', () => client.listTokens(ListTokensRequest.create({})))
  await tell('getServerInfo', () => client.getServerInfo({}))
}

async function speakOnBus(): Promise<void> {
  const options = { servers: [busUrl], credentials, name: `forwarder-${ownId}`, log }
  await using bus = await connectBus(options)
  const claim = async (asHost: number, subjectOf: number): Promise<void> => {
    const report = LocationReport.create({
      change: LocationChange.LOCATION_CHANGE_ATTACHED,
      endpointId,
      networkId,
      hostId: asHost,
      leaseId: 'captured',
      observedAtUnixMs: BigInt(Date.now()),
      sequence: BigInt(Date.now()) * 1000n,
    })
    const { outcome } = await bus.request(
      events.endpointReported.subject(subjectOf, endpointId),
      { request: LocationReport, reply: LocationReportReply },
      signReport(report, credentials.identityKey),
    )
    if (outcome?.$case === 'error') throw fromWire(outcome.value)
  }
  await tell('claimAsOneself', () => claim(ownId, ownId))
  await tell('claimAsOther', () => claim(otherHostId, ownId))
  await tell('claimOnOtherSubject', () => claim(otherHostId, otherHostId))
}

/** Opens streams and resets them at once, as fast as the server lets it, over connection after connection. */
async function openAndReset(): Promise<string> {
  const { chainPem, keyPem } = credentials.tls
  let count = 0
  while (count < resets) {
    const session = connectHttp2(`https://${config}`, {
      cert: chainPem,
      key: keyPem,
      rejectUnauthorized: false,
    })
    session.on('error', () => undefined)
    while (!session.closed && !session.destroyed && count < resets) {
      for (let index = 0; index < AT_ONCE; index++, count++) {
        if (session.closed || session.destroyed) break
        const stream = session.request({
          ':method': 'POST',
          ':path': '/weftline.config.v1.ConfigService/GetServerInfo',
          'content-type': 'application/grpc',
        })
        stream.on('error', () => undefined)
        stream.close(8)
      }
      await sleep(1)
    }
    session.destroy()
    await sleep(PAUSE_MS)
  }
  return String(count)
}

async function tell(what: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work()
    outcomes[what] = 'done'
  } catch (error) {
    outcomes[what] = asWeftError(error).code
  }
}
