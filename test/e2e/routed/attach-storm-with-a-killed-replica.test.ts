import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import { connect, type Endpoint, type Weft } from '@weft/sdk'
import { eventually } from '../../support/eventually.ts'
import { NewPlace } from '../../support/place.ts'
import { ping } from '../../support/probe.ts'
import { routedLab } from '../support/blue.ts'
import { UNAVAILABLE_CODES } from '../support/errors.ts'
import { PREFIX, prefix, scaled } from '../support/lab.ts'

const REPLICAS = 3
const NETWORK = 'storm'

test('no address is given twice and no acknowledged endpoint is lost when a replica of config is killed', async (t) => {
  const lab = await routedLab()
  const count = scaled(60, 200)
  await using made = new AsyncDisposableStack()
  const { tenant } = lab.plan
  await lab.client.networks.create({ tenant, network: NETWORK, prefixes: [prefix('10.43.0.0/16')] })
  made.defer(() => removeNetwork(lab))
  const prober = made.use(await NewPlace.make(`${PREFIX}-prober`))
  await lab.client.endpoints.create({ tenant, network: NETWORK, endpoint: 'prober' })
  await lab.client
    .host('beta')
    .attach({ tenant, network: NETWORK, endpoint: 'prober' }, { kind: 'netns', path: prober.path })
  const replicas = Array.from({ length: REPLICAS }, (_, index) =>
    made.use(connect({ context: lab.contextOfReplica(index) })),
  )
  const places = await Promise.all(
    Array.from({ length: count }, async (_, index) =>
      made.use(await NewPlace.make(`${PREFIX}-storm${index}`)),
    ),
  )
  const startedAt = Date.now()
  const storm = Promise.allSettled(
    places.map((place, index) => attach(lab, replicas, place, index)),
  )
  await lab.stop('config-2', 'SIGKILL')
  const outcomes = await storm
  await lab.start('config-2')
  t.diagnostic(`${count} attaches settled after ${Date.now() - startedAt} ms`)

  const acknowledged = outcomes.flatMap((outcome) =>
    outcome.status === 'fulfilled' ? [outcome.value] : [],
  )
  const refused = outcomes.flatMap((outcome) =>
    outcome.status === 'rejected' ? [outcome.reason] : [],
  )
  // Whoever asked the replica that died was told so, and nobody else.
  for (const reason of refused) assert.ok(UNAVAILABLE_CODES.includes(reason.code), String(reason))
  assert.ok(
    acknowledged.length >= (count * (REPLICAS - 1)) / REPLICAS - 1,
    `${refused.length} refused, the first because ${refused[0]}`,
  )

  const stored = new Map<string, Endpoint>()
  for await (const endpoint of lab.client.endpoints.list({ tenant, network: NETWORK })) {
    stored.set(endpoint.name, endpoint)
  }
  const addresses = [...stored.values()].flatMap((endpoint) =>
    endpoint.addresses.map(formatIpAddress),
  )
  assert.equal(new Set(addresses).size, addresses.length, 'an address was given twice')
  for (const endpoint of acknowledged) {
    assert.deepEqual(stored.get(endpoint.name)?.addresses, endpoint.addresses, endpoint.name)
  }
  for (const {
    addresses: [address],
  } of acknowledged.slice(0, 20)) {
    assert.ok(address !== undefined)
    await eventually(async () => {
      const { received } = await ping(prober, formatIpAddress(address), { 'timeout-ms': 1000 })
      assert.equal(received, 1, formatIpAddress(address))
    })
  }
})

/** Creates an endpoint through one of the replicas and attaches it at alpha. */
async function attach(
  lab: Lab,
  replicas: readonly Weft[],
  place: NewPlace,
  index: number,
): Promise<Endpoint> {
  const ref = { tenant: lab.plan.tenant, network: NETWORK, endpoint: `storm-${index}` }
  const replica = replicas[index % replicas.length]
  if (replica === undefined) throw new RangeError('no replica')
  const endpoint = await replica.endpoints.create(ref)
  await lab.client.host('alpha').attach(ref, { kind: 'netns', path: place.path })
  return endpoint
}

async function removeNetwork(lab: Lab): Promise<void> {
  const ref = { tenant: lab.plan.tenant, network: NETWORK }
  for (const { name, host } of await Array.fromAsync(lab.client.endpoints.list(ref))) {
    const endpoint = { ...ref, endpoint: name }
    if (host !== undefined) await lab.client.host(host).detach(endpoint)
    await lab.client.endpoints.delete(endpoint)
  }
  await lab.client.networks.delete(ref)
}
