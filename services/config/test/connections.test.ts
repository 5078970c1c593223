import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { describe, test } from 'node:test'
import { events, memoryBus } from '@weft/bus'
import { PermissionDeniedError } from '@weft/errors'
import { openTunnelKey } from '@weft/identity'
import {
  CandidateKind,
  Carrier,
  ConnectionState,
  OpenConnection,
} from '@weft/proto/weftline/common/v1/common.ts'
import { UpdateHostRequest } from '@weft/proto/weftline/config/v1/config_service.ts'
import type { Host } from '@weft/proto/weftline/config/v1/records.ts'
import { ConnectionReport } from '@weft/proto/weftline/status/v1/status.ts'
import { eventually } from '@weft/testing'
import {
  bytesOf,
  connectAs,
  credentialsOf,
  furnish,
  openRows,
  rowsOf,
  type Subscriber,
  sayConnections as say,
  startReplica,
} from './site.ts'

const seen = {
  address: Buffer.of(198, 51, 100, 7),
  port: 4_000,
  kind: CandidateKind.CANDIDATE_KIND_OBSERVED,
}

describe('a host that reports its open connections', () => {
  test('has them shown to operators, and where it is seen handed on to its peers', async () => {
    await using bus = memoryBus().connect()
    await using replica = await startReplica(bus)
    const { alpha, beta } = await twoHosts(await furnish(replica))
    const rows = await openRows(bus)

    say(bus, alpha, { connections: [to(beta)], observed: [seen] })

    const { connections, observed } = await eventually(async () => {
      const answer = await replica.client.listHostConnections({ host: 'alpha' })
      return answer.connections.length === 1 && answer
    })
    assert.equal(connections[0]?.host, 'beta')
    assert.equal(connections[0].connection?.rttUs, 250n)
    assert.deepEqual(
      observed.map(({ port }) => port),
      [4_000],
    )
    const places = await eventually(async () => {
      const found = await candidatesOf(await rowsOf(rows, beta.id), alpha)
      return found.length === 2 && found
    })
    assert.deepEqual(places, ['own 61820', 'observed 4000'])
  })

  test('is not believed for another, without its key, or once it is revoked', async () => {
    await using bus = memoryBus().connect()
    await using replica = await startReplica(bus)
    const { alpha, beta } = await twoHosts(await furnish(replica))
    const heard = async (host: string) =>
      (await replica.client.listHostConnections({ host })).connections.length

    const forged = { connections: [to(alpha)] }
    // Beta's key under alpha's name, alpha's number on beta's subject, and nobody's key.
    say(bus, alpha, forged, { signer: beta })
    say(bus, alpha, forged, { subject: beta })
    const unsigned = { hostId: alpha.id, sentAtUnixMs: BigInt(Date.now()), ...forged }
    const subject = events.connectionsReported.subject(alpha.id, alpha.id)
    bus.publish(subject, ConnectionReport, ConnectionReport.create(unsigned))
    // From long ago: somebody kept it.
    say(bus, beta, { connections: [to(alpha)], sentAtUnixMs: BigInt(Date.now() - 3_600_000) })
    await new Promise((resolve) => setTimeout(resolve, 1_100))
    say(bus, beta, { connections: [to(alpha)] })
    await eventually(async () => (await heard('beta')) === 1)
    assert.equal(await heard('alpha'), 0)

    const revocation = { idempotencyKey: randomUUID(), name: 'beta', reason: 'stolen' }
    await replica.client.revokeHost(revocation)
    assert.equal(await heard('beta'), 0)
    await new Promise((resolve) => setTimeout(resolve, 1_100))
    say(bus, beta, { connections: [to(alpha)] })
    say(bus, alpha, { connections: [to(beta)] })
    await eventually(async () => (await heard('alpha')) === 1)
    assert.equal(await heard('beta'), 0)
  })

  test('is not shown to another host, nor to who has a role in one tenant', async () => {
    await using bus = memoryBus().connect()
    await using replica = await startReplica(bus)
    const subscriber = await furnish(replica)
    const { alpha } = await twoHosts(subscriber)
    const grant = { tenant: 'acme', role: 1 } as const
    const someone = await subscriber.user('someone', grant)

    for (const credentials of [credentialsOf(alpha), someone]) {
      await using client = connectAs(credentials, replica.address)
      await assert.rejects(client.listHostConnections({ host: 'beta' }), PermissionDeniedError)
    }
  })
})

describe('the row of a peer', () => {
  test('has what the host says of its tunnel key, and where an operator says that it is', async () => {
    await using bus = memoryBus().connect()
    await using replica = await startReplica(bus)
    const { alpha, beta } = await twoHosts(await furnish(replica))
    const rows = await openRows(bus)
    const configured = [
      { address: bytesOf('203.0.113.7'), port: 4_500, kind: CandidateKind.CANDIDATE_KIND_OWN },
    ]

    await replica.client.updateHost(
      UpdateHostRequest.create({
        idempotencyKey: randomUUID(),
        name: 'alpha',
        sealedListener: { port: 4_501, configured },
      }),
    )

    await eventually(async () => {
      const places = await candidatesOf(await rowsOf(rows, beta.id), alpha)
      assert.deepEqual(places, ['own 4501', 'configured 4500'])
      return true
    })
    const row = (await rowsOf(rows, beta.id)).get(`peer.${alpha.id}`)?.row
    assert(row?.$case === 'peer')
    const { tunnelStatement, identityKey, tunnelKey, addresses } = row.value
    assert.deepEqual(openTunnelKey(tunnelStatement, identityKey, tunnelKey).tunnelKey, tunnelKey)
    assert.equal(addresses.length, 1)
    const self = (await rowsOf(rows, alpha.id)).get(`self.${alpha.id}`)?.row
    assert(self?.$case === 'self')
    assert.equal(self.value.sealedPort, 4_501)
    assert.deepEqual(
      self.value.configured.map(({ port }) => port),
      [4_500],
    )
  })
})

/** Hosts alpha and beta with an endpoint each in network blue. */
async function twoHosts(subscriber: Subscriber): Promise<{ alpha: Host; beta: Host }> {
  const alpha = await subscriber.host('alpha', '192.0.2.1')
  const beta = await subscriber.host('beta', '192.0.2.2')
  await subscriber.assign(await subscriber.endpoint('blue', 'web'), alpha)
  await subscriber.assign(await subscriber.endpoint('blue', 'api'), beta)
  return { alpha, beta }
}

function to(host: Host): OpenConnection {
  return OpenConnection.create({
    hostId: host.id,
    carrier: Carrier.CARRIER_SEALED,
    state: ConnectionState.CONNECTION_STATE_OPEN,
    rttUs: 250n,
  })
}

const KINDS: { readonly [kind: number]: string } = {
  [CandidateKind.CANDIDATE_KIND_OWN]: 'own',
  [CandidateKind.CANDIDATE_KIND_CONFIGURED]: 'configured',
  [CandidateKind.CANDIDATE_KIND_OBSERVED]: 'observed',
}

async function candidatesOf(
  rows: Awaited<ReturnType<typeof rowsOf>>,
  { id }: Host,
): Promise<string[]> {
  const row = rows.get(`peer.${id}`)?.row
  if (row?.$case !== 'peer') return []
  return row.value.candidates.map(({ port, kind }) => `${KINDS[kind]} ${port}`)
}
