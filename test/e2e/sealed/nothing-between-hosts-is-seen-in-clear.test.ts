import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import type { Encryption } from '@weft/sdk'
import { eventually } from '../../support/eventually.ts'
import { hex } from '../../support/frames.ts'
import type { Place } from '../../support/place.ts'
import {
  askByTcp,
  type Probe,
  ping,
  type Sniffed,
  startSniffer,
  startTcpEcho,
} from '../../support/probe.ts'
import { BLUE, type Known, pairsOf, RED, sealedLab } from '../support/blue.ts'
import { assertConservation } from '../support/counters.ts'
import { address, at, prefix, scaled } from '../support/lab.ts'
import { attachEndpoints, detachEndpoints, takeInAgain } from '../support/members.ts'

const [web, , api, edge] = BLUE
/** What ping repeats in its payload: it takes 16 bytes. */
const CANARY = hex('woven in the ope')
const CANARY_PAIRS = [
  [web, api],
  [api, web],
  [web, edge],
  [api, edge],
  [edge, web],
] as const
const ECHO_PORT = 7007
/** The zone of all hosts of the topology. */
const ZONE = 'lab'
/** Where beta is, on its own subnet, when it is not at home. */
const ELSEWHERE = '172.31.2.77'
const PALE = 'pale'
const PALE_ENDPOINTS = [
  { name: 'one', host: 'alpha', ip4: '10.77.0.11' },
  { name: 'two', host: 'beta', ip4: '10.77.0.12' },
] as const
/** A session whose peer has gone is given up after 15 s, and the next one may have to be begun by the other host. */
const BACK_MS = 60_000

test('every two endpoints of a network talk, by ICMP and TCP over both families', async () => {
  const lab = await sealedLab()
  for (const network of [BLUE, RED]) {
    for (const [source, other] of pairsOf(network)) {
      for (const address of [other.ip4, other.ip6]) {
        const { lost } = await ping(at(lab, source.name), address, { 'timeout-ms': 5000 })
        assert.equal(lost, 0, `${source.name} to ${address}`)
      }
      const listen = `${other.ip4}:${ECHO_PORT}`
      await using _echo = await startTcpEcho(at(lab, other.name), { listen })
      const { answered } = await askByTcp(at(lab, source.name), listen, { count: 20, size: 30_000 })
      assert.equal(answered, 20, `${source.name} to ${listen}`)
    }
  }
  for (const host of ['alpha', 'beta', 'gamma']) {
    await eventually(async () => {
      const connections = await lab.client.host(host).listOpenConnections()
      const states = connections.map(({ carrier, state }) => `${carrier} ${state}`)
      assert.deepEqual(states, ['sealed open', 'sealed open'])
    })
  }
  await assertConservation(lab)
})

test('no wire between hosts ever carries a payload in clear, whatever begins and ends meanwhile', async (t) => {
  const lab = await sealedLab()
  const { tenant } = lab.plan
  await using made = new AsyncDisposableStack()
  made.defer(async () => {
    await lab.client.zones.update({ name: ZONE, trusted: true })
  })
  const wires = await watchWires(lab, made)
  const inside = made.use(await startSniffer(at(lab, web.name), { device: 'eth0', match: CANARY }))
  for (const [source, other] of CANARY_PAIRS) made.use(startCanaries(lab, source, other.ip4))
  await using pale = await Pale.make(lab, 'required')

  let events = 0
  const counts = new Map<string, number>()
  for (let round = 0; round < scaled(1, 16); round++) {
    for (const [what, act] of lifecycle(lab, pale)) {
      await act()
      events++
      counts.set(what, (counts.get(what) ?? 0) + 1)
      await untilAnswered(lab, web, api)
      await untilAnswered(lab, api, web)
      await pale.untilAnswered()
    }
  }
  await untilAnswered(lab, web, edge)

  const seen = await inside.stop()
  assert.ok(seen.matched >= 100, `only ${seen.matched} canaries were sent`)
  let frames = 0
  for (const [host, wire] of wires) {
    const result = await wire.stop()
    assert.equal(result.matched, 0, `canaries on the wire of ${host}`)
    frames += result.frames
  }
  t.diagnostic(
    `${events} events, ${seen.matched} canaries at one endpoint, ${frames} frames on the wires`,
  )
  t.diagnostic([...counts].map(([what, count]) => `${what} ${count}`).join(', '))
  // Where an operator wants it plain it is, and is seen: what was watched above would have shown it.
  assert.equal((await lab.client.zones.get(ZONE)).trusted, true)
  await pale.remake('outside-trusted-zones')
  await pale.untilAnswered()
  await using wire = await startSniffer(at(lab, 'alpha'), { device: 'under0', match: CANARY })
  await pale.untilAnswered()
  await pale.untilAnswered()
  assert.ok((await wire.stop()).matched > 0, 'the sniffers see no canary in clear')
  assert.equal((await lab.client.networks.get({ tenant, network: 'blue' })).encryption, 'required')
})

type Wires = readonly (readonly [host: string, wire: Probe<Sniffed>])[]

/** Looks for the canary on the underlay of every host. */
async function watchWires(lab: Lab, made: AsyncDisposableStack): Promise<Wires> {
  return await Promise.all(
    lab.weftHosts.map(async ({ name }) => {
      const wire = await startSniffer(at(lab, name), { device: 'under0', match: CANARY })
      return [name, made.use(wire)] as const
    }),
  )
}

/** What happens in the life of hosts and of what goes between them. */
function lifecycle(
  lab: Lab,
  pale: Pale,
): readonly (readonly [what: string, act: () => Promise<unknown>])[] {
  const trust = (trusted: boolean): Promise<unknown> =>
    lab.client.zones.update({ name: ZONE, trusted })
  return [
    ['crash', () => lab.restart('forwarder@alpha', 'SIGKILL')],
    ['upgrade', () => lab.restart('forwarder@beta', 'SIGTERM')],
    ['crash', () => lab.restart('shuttle@alpha', 'SIGKILL')],
    ['upgrade', () => lab.restart('shuttle@beta', 'SIGTERM')],
    ['stop', () => detachEndpoints(lab, 'gamma')],
    ['start', () => attachEndpoints(lab, 'gamma')],
    ['roam', () => roam(lab, 'beta', ELSEWHERE)],
    ['roam', () => roam(lab, 'beta')],
    ['trust', () => trust(false)],
    // Its links stay in a zone that nobody trusts: they are sealed still.
    ['encryption', () => pale.remake('outside-trusted-zones')],
    ['encryption', () => pale.remake('required')],
    ['trust', () => trust(true)],
    ['revoke', () => lab.client.hosts.revoke({ name: 'gamma', reason: 'a test' })],
    ['join', () => takeInAgain(lab, 'gamma')],
  ]
}

/** A network that is made anew with another setting: one that is there keeps its own. */
class Pale implements AsyncDisposable {
  readonly #lab: Lab
  #canaries: AsyncDisposable | undefined

  private constructor(lab: Lab) {
    this.#lab = lab
  }

  static async make(lab: Lab, encryption: Encryption): Promise<Pale> {
    const pale = new Pale(lab)
    await pale.#make(encryption)
    return pale
  }

  async remake(encryption: Encryption): Promise<void> {
    await this[Symbol.asyncDispose]()
    await this.#make(encryption)
  }

  async #make(encryption: Encryption): Promise<void> {
    const { client, plan } = this.#lab
    const prefixes = [prefix('10.77.0.0/24')]
    await client.networks.create({ tenant: plan.tenant, network: PALE, prefixes, encryption })
    for (const { host, name, ip4 } of PALE_ENDPOINTS) {
      await this.#lab.addEndpoint({ network: PALE, name, host, addresses: [address(ip4)] })
    }
    const [one, two] = PALE_ENDPOINTS
    this.#canaries = at(this.#lab, `${PALE}/${one.name}`).start(pinging(two.ip4))
  }

  async untilAnswered(): Promise<void> {
    const [one, two] = PALE_ENDPOINTS
    await untilPinged(at(this.#lab, `${PALE}/${one.name}`), two.ip4)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { client, plan } = this.#lab
    await this.#canaries?.[Symbol.asyncDispose]()
    for (const { name } of PALE_ENDPOINTS) await this.#lab.removeEndpoint(PALE, name)
    await client.networks.delete({ tenant: plan.tenant, network: PALE })
  }
}

/** Gives a host another address on its underlay, or the one back that it has in the topology. */
async function roam(lab: Lab, host: string, elsewhere?: string): Promise<void> {
  const plan = lab.weftHosts.find(({ name }) => name === host)
  const [own] = plan?.underlayAddresses ?? []
  const [gateway] = plan?.gateways ?? []
  assert.ok(own && gateway)
  const home = formatIpAddress(own.address)
  await at(lab, host).ip(
    `address delete ${elsewhere === undefined ? ELSEWHERE : home}/${own.lengthBits} dev under0`,
    `address add ${elsewhere ?? home}/${own.lengthBits} dev under0`,
    `route replace default via ${formatIpAddress(gateway)}`,
  )
}

/** Echo requests with the canary, a hundred a second, whether or not they are answered. */
function startCanaries(lab: Lab, source: Known, to: string): AsyncDisposable {
  return at(lab, source.name).start(pinging(to))
}

function pinging(to: string): string[] {
  return ['ping', '-q', '-i', '0.01', '-s', '200', '-p', CANARY, to]
}

async function untilAnswered(lab: Lab, source: Known, other: Known): Promise<void> {
  await untilPinged(at(lab, source.name), other.ip4)
}

async function untilPinged(place: Place, to: string): Promise<void> {
  await eventually(async () => {
    const { received } = await ping(place, to, { count: 1, 'timeout-ms': 500 })
    assert.equal(received, 1, `${place.namespace} to ${to}`)
  }, BACK_MS)
}
