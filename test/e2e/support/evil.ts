import assert from 'node:assert/strict'
import type { Lab } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import { eventually } from '../../support/eventually.ts'
import { NewPlace, type Place } from '../../support/place.ts'
import { startThrow, type ThrowKind, type Thrown } from '../../support/probe.ts'
import { at, PREFIX } from './lab.ts'
import { SEALED_PORT } from './nat.ts'

const SUBNET = '172.31.66'
const ADDRESS = `${SUBNET}.66`
/** What it may pretend to be: answers to all of that come to it too. */
const SPREAD = '11.0.0.1'
const FROM_PORT = 40_000
const TABLE = 'evil'
const ENDLESS = 1_000_000_000
const SEGMENTATION = 'tx-udp-segmentation'

/** What one throw came to at its target. */
export interface Blow extends Thrown {
  /** Datagrams that came to the target's host. */
  readonly arrived: number
  /** Of these those that the full buffer of its socket dropped. */
  readonly dropped: number
  /** What it said it dropped or refused, by reason, where it counts that. */
  readonly counted: ReadonlyMap<string, number> | undefined
}

/** A machine of nobody on the underlay: it reaches the sealed port of a host, and knows what was on a wire. */
export class Evil implements AsyncDisposable {
  readonly place: NewPlace
  readonly address: string = ADDRESS
  readonly #lab: Lab
  readonly #host: string
  readonly #target: string

  private constructor(lab: Lab, place: NewPlace, host: string) {
    this.#lab = lab
    this.place = place
    this.#host = host
    const plan = lab.weftHosts.find(({ name }) => name === host)
    this.#target = formatIpAddress(plan?.underlayAddresses[0]?.address ?? assert.fail(host))
  }

  /** @param host name of the host that is attacked; what comes to it is counted */
  static async make(lab: Lab, host: string): Promise<Evil> {
    await using made = new AsyncDisposableStack()
    const place = made.use(await NewPlace.make(`${PREFIX}-evil`))
    const router = at(lab, 'router')
    await router.ip(
      `link add u-evil type veth peer name under0 netns ${place.namespace}`,
      `address add ${SUBNET}.1/24 dev u-evil`,
      'link set u-evil up',
      `route add 11.0.0.0/8 via ${ADDRESS} dev u-evil`,
    )
    await place.ip(
      `address add ${ADDRESS}/24 dev under0`,
      'link set under0 up',
      `route add default via ${SUBNET}.1`,
      // What it gets for others' addresses goes no further.
      'route add blackhole 11.0.0.0/8',
    )
    // What is recorded at the host is to be datagrams, not rows of them.
    await router.mustRun(['ethtool', '-K', `u-${host}`, SEGMENTATION, 'off'])
    const nft = (text: string): Promise<string> => at(lab, host).mustRun(['nft', text])
    await nft(`add table inet ${TABLE}`)
    await nft(`add counter inet ${TABLE} arrived`)
    await nft(`add counter inet ${TABLE} said`)
    await nft(`add chain inet ${TABLE} in { type filter hook input priority 0; }`)
    await nft(`add chain inet ${TABLE} out { type filter hook output priority 0; }`)
    for (const range of [`${SUBNET}.0/24`, '11.0.0.0/8']) {
      await nft(`add rule inet ${TABLE} in ip saddr ${range} meta l4proto udp counter name arrived`)
      await nft(`add rule inet ${TABLE} out ip daddr ${range} meta l4proto udp counter name said`)
    }
    made.move()
    return new Evil(lab, place, host)
  }

  /** Throws datagrams and waits until the target has dealt with all of them. */
  async throw(
    kind: ThrowKind,
    options: {
      readonly file?: string
      readonly count?: number
      readonly rate?: number
      readonly seed?: number
      readonly port?: number
      /** Sources all over a /8 instead of its own address. */
      readonly spread?: boolean
      /** It throws on until this has come to its end; `count` is then left out. */
      readonly during?: () => Promise<void>
    } = {},
  ): Promise<Blow> {
    const { port = SEALED_PORT, spread = false, during, ...rest } = options
    // A shuttle that has just begun anew tells nothing yet.
    const before = await eventually(() => this.#read())
    await using probe = await startThrow(this.place, {
      kind,
      to: `${this.#target}:${port}`,
      from: `${spread ? SPREAD : ADDRESS}:${FROM_PORT}`,
      spread,
      ...(during && { count: ENDLESS }),
      ...rest,
    })
    await during?.()
    const thrown = await (during ? probe.stop() : probe.end())
    return await eventually(async () => {
      const now = await this.#read()
      const arrived = now.arrived - before.arrived
      const dropped = now.dropped - before.dropped
      const counted = now.counted && subtract(now.counted, before.counted)
      assert.equal(arrived, thrown.sent, 'some are on their way')
      const said = now.said - before.said
      if (counted !== undefined && port === SEALED_PORT)
        assert.ok(
          sum(counted) + said >= arrived - dropped,
          `${arrived} arrived, ${dropped} did not fit, ${[...counted].join(' ')} are counted`,
        )
      const saidBytes = now.saidBytes - before.saidBytes
      return { ...thrown, answered: said, answered_bytes: saidBytes, arrived, dropped, counted }
    })
  }

  async #read(): Promise<{
    readonly arrived: number
    readonly said: number
    readonly saidBytes: number
    readonly dropped: number
    readonly counted: ReadonlyMap<string, number> | undefined
  }> {
    const place = at(this.#lab, this.#host)
    const text = await place.mustRun(['nft', '-j', 'list', 'counters', 'table', 'inet', TABLE])
    const { nftables } = JSON.parse(text) as {
      nftables: { counter?: { name: string; packets: number; bytes: number } }[]
    }
    const of = (wanted: string) =>
      nftables.find(({ counter }) => counter?.name === wanted)?.counter ?? assert.fail(wanted)
    return {
      arrived: of('arrived').packets,
      said: of('said').packets,
      saidBytes: of('said').bytes,
      dropped: await socketDrops(this.#lab, this.#host),
      counted: await sealedCounts(this.#lab, this.#host),
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await at(this.#lab, this.#host).mustRun(['nft', `delete table inet ${TABLE}`])
    const router = at(this.#lab, 'router')
    await router.mustRun(['ethtool', '-K', `u-${this.#host}`, SEGMENTATION, 'on'])
    await router.ip('link delete u-evil')
    await this.place[Symbol.asyncDispose]()
  }
}

const ARRIVALS = 'arrivals'

/** Counts the frames that come to endpoints, but for those of neighbours that look for each other. */
export class Arrivals implements AsyncDisposable {
  readonly #places: readonly Place[]

  private constructor(places: readonly Place[]) {
    this.#places = places
  }

  /**
   * @param names as `NETWORK/ENDPOINT`
   * @param source the address whose packets are counted, by default those of all
   */
  static async watch(lab: Lab, names: readonly string[], source?: string): Promise<Arrivals> {
    const places = names.map((name) => at(lab, name))
    const meant =
      source === undefined ? 'meta protocol != arp meta l4proto != icmpv6' : `ip saddr ${source}`
    for (const place of places) {
      for (const line of [
        `add table netdev ${ARRIVALS}`,
        `add counter netdev ${ARRIVALS} come`,
        `add chain netdev ${ARRIVALS} in { type filter hook ingress device eth0 priority 0; }`,
        `add rule netdev ${ARRIVALS} in ${meant} counter name come`,
      ]) {
        await place.mustRun(['nft', line])
      }
    }
    return new Arrivals(places)
  }

  async count(): Promise<number> {
    let total = 0
    for (const place of this.#places) {
      const text = await place.mustRun(['nft', 'list', 'counters', 'table', 'netdev', ARRIVALS])
      total += Number(/packets (\d+)/.exec(text)?.[1])
    }
    return total
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const place of this.#places)
      await place.mustRun(['nft', `delete table netdev ${ARRIVALS}`])
  }
}

/** Datagrams that the full buffer of the sealed port of a host has dropped. */
async function socketDrops(lab: Lab, host: string): Promise<number> {
  const text = await at(lab, host).mustRun(['cat', '/proc/net/udp', '/proc/net/udp6'])
  const port = `:${SEALED_PORT.toString(16).toUpperCase()}`
  const rows = text.split('\n').map((line) => line.trim().split(/\s+/))
  const own = rows.filter((row) => row[1]?.endsWith(port))
  return own.reduce((total, row) => total + Number(row.at(-1)), 0)
}

/** Drops and refusals of the sealed carrier of a host by reason, as its metrics tell; undefined where they tell none. */
export async function sealedCounts(
  lab: Lab,
  host: string,
): Promise<ReadonlyMap<string, number> | undefined> {
  const shuttle = lab.processes().find(({ name }) => name === `shuttle@${host}`)
  const url = `http://${shuttle?.metricsListen}/metrics`
  const text = await at(lab, 'control').mustRun(['curl', '-s', '--max-time', '5', url])
  if (!text.includes('weft_sealed_drops_total')) return undefined
  const lines = text.matchAll(/^weft_sealed_(?:drops|refusals)_total\{reason="(\w+)"\} (\d+)$/gm)
  const counts = new Map<string, number>()
  // Packets and handshakes may be dropped for a reason of the same name.
  for (const [, reason = '', count] of lines) {
    counts.set(reason, (counts.get(reason) ?? 0) + Number(count))
  }
  return counts
}

function subtract(
  after: ReadonlyMap<string, number>,
  before: ReadonlyMap<string, number> | undefined,
): ReadonlyMap<string, number> {
  const rows = [...after].map(([name, count]) => [name, count - (before?.get(name) ?? 0)] as const)
  return new Map(rows.filter(([, count]) => count > 0))
}

export function sum(counts: ReadonlyMap<string, number>): number {
  return [...counts.values()].reduce((total, count) => total + count, 0)
}

/** A line for the diagnostics of a test. */
export function describeBlow(what: string, blow: Blow): string {
  const rate = Math.round((blow.sent / blow.elapsed_ns) * 1e9)
  const reasons = blow.counted && [...blow.counted].map(([name, count]) => `${name} ${count}`)
  const told = reasons === undefined ? '' : `; ${reasons.join(', ')}`
  return `${what}: ${blow.sent} at ${rate}/s, ${blow.dropped} did not fit the socket, ${blow.answered} answers${told}`
}
