import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { type Changed, CROWD_ADDRESS, Crowd } from '../../support/crowd.ts'
import { startThrow, type ThrowKind } from '../../support/probe.ts'
import { sum } from '../support/evil.ts'
import { PREFIX, scaled } from '../support/lab.ts'
import { PrivateFolder } from '../support/members.ts'
import { makeInitiations } from '../support/rogue.ts'

/** T16 of the threat model has twenty; every one of their changes has to succeed. */
const HOSTS = 20
const CHANGES = { count: scaled(2, 60), everyMs: 1000 }
/** Datagrams in a second, while the hosts change their keys. */
const RATE = scaled(20_000, 100_000)
const INITIATIONS = 4096
const CLOSED_PORT = 61_821
const FROM_PORT = 40_000
/** What the flood pretends to be where it comes from all over a /8. */
const SPREAD = '11.0.0.1'
const ENDLESS = 1_000_000_000

interface Flood {
  readonly name: string
  readonly kind: ThrowKind
  readonly spread: boolean
}
const FLOODS: readonly Flood[] = [
  { name: 'random bytes', kind: 'random', spread: true },
  { name: 'initiations from sources all over', kind: 'again', spread: true },
  { name: 'initiations from one source', kind: 'again', spread: false },
]

/** What the hosts did in a flood, and what became of it. */
interface Round {
  readonly changed: Changed
  readonly thrown: number
  /** Dropped or refused by the shuttle, and counted by reason. */
  readonly counted: number
  readonly cpuShare: number
}

describe('known peers in a flood', () => {
  const end = new AsyncDisposableStack()
  const folder = end.use(new PrivateFolder())
  let crowd: Crowd
  let file: string

  before(async () => {
    crowd = end.use(
      await Crowd.start(`${PREFIX}-flood`, { hosts: HOSTS, beginner: 'hosts', changes: CHANGES }),
    )
    await crowd.place.ip('route add blackhole 11.0.0.0/8')
    file = await makeInitiations(crowd.key, INITIATIONS, folder)
    const { established } = await crowd.open()
    assert.equal(established, HOSTS)
  })
  after(() => end.disposeAsync())

  for (const flood of FLOODS) {
    test(`${flood.name} keep none of them from changing its keys`, async (t) => {
      const rounds = {
        'at a closed port': await changeIn(flood, CLOSED_PORT),
        'at the sealed port': await changeIn(flood, crowd.port),
      }

      for (const [where, { changed, thrown, counted, cpuShare }] of Object.entries(rounds)) {
        const ms = (ns: number): string => (ns / 1e6).toFixed(1)
        t.diagnostic(
          `${where}: ${thrown} thrown, ${counted} counted by reason; ${changed.done} of ${changed.begun} changes, ` +
            `p50 ${ms(changed.p50_ns)} ms, longest ${ms(changed.longest_ns)} ms; the shuttle takes ${Math.round(cpuShare * 100)} % of a core`,
        )
        assert.equal(changed.begun, HOSTS * CHANGES.count)
        assert.equal(changed.done, changed.begun)
        assert.ok(thrown > 0)
      }
      assert.equal(rounds['at a closed port'].counted, 0)
      assert.ok(rounds['at the sealed port'].counted > 0)
    })
  }

  async function changeIn({ kind, spread }: Flood, port: number): Promise<Round> {
    const counted = async (): Promise<number> => sum(await crowd.shuttle.refused())
    const before = await counted()
    await using probe = await startThrow(crowd.place, {
      kind,
      ...(kind === 'again' && { file }),
      to: `${crowd.shuttleAddress}:${port}`,
      from: `${spread ? SPREAD : CROWD_ADDRESS}:${FROM_PORT}`,
      spread,
      count: ENDLESS,
      rate: RATE,
    })
    const cpuBefore = crowd.shuttle.cpuSeconds()
    const began = performance.now()
    const changed = await crowd.change()
    const cpuShare = (crowd.shuttle.cpuSeconds() - cpuBefore) / ((performance.now() - began) / 1000)
    const { sent } = await probe.stop()
    return { changed, thrown: sent, counted: (await counted()) - before, cpuShare }
  }
})
