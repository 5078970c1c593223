import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import test, { type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, establish, sealedLab, target } from '../support/blue.ts'
import { type Blow, describeBlow, Evil } from '../support/evil.ts'
import { at, scaled } from '../support/lab.ts'
import { PrivateFolder } from '../support/members.ts'
import { makeInitiations, tunnelKeysOf } from '../support/rogue.ts'
import { type Loss, Traffic } from '../support/traffic.ts'

const [web, , api, edge] = BLUE
const HOST = 'alpha'
/** Different ones; they are thrown again and again, as nobody's initiation is remembered. */
const INITIATIONS = 4096
/** Initiations in a second, and for how long. */
const RATE = scaled(20_000, 100_000)
const FLOOD_MS = scaled(3_000, 60_000)
/** Of what goes on meanwhile, datagrams in a second. */
const TRAFFIC_RATE = 500
const CLOSED_PORT = 61_821
/** T16 of the threat model wants it flat; tables of sources and cookies are there from the start. */
const GROWTH_MAX_BYTES = 16 * 2 ** 20

/** What a flood did to those who belong. */
interface Toll {
  readonly blow: Blow
  readonly loss: Loss
  readonly cpuShare: number
  readonly grownBytes: number
  readonly newPeerMs: number
}

for (const spread of [true, false]) {
  const from = spread ? 'sources all over' : 'one source'
  test(`initiations of strangers from ${from} cost old flows nothing and keep no new peer out`, async (t) => {
    const lab = await sealedLab()
    using folder = new PrivateFolder()
    const file = await makeInitiations(tunnelKeysOf(lab, HOST).open, INITIATIONS, folder)
    await using evil = await Evil.make(lab, HOST)
    await establish(lab, web, [api, edge])

    const closed = await flood(lab, evil, { file, spread, port: CLOSED_PORT })
    const open = await flood(lab, evil, { file, spread })
    tell(t, 'at a closed port', closed)
    tell(t, 'at the sealed port', open)

    for (const { loss } of [closed, open]) {
      assert.equal(loss.doubled, 0)
      assert.equal(loss.lost, 0, JSON.stringify(loss))
    }
    assert.ok(open.grownBytes <= GROWTH_MAX_BYTES, `it grew by ${open.grownBytes} bytes`)
    // No answer is longer than what asked for it: with the headers, 92 and 148 bytes.
    assert.ok(open.blow.answered_bytes <= open.blow.arrived * 120)
  })
}

/** Floods the host while others talk through it and one begins anew. */
async function flood(
  lab: Lab,
  evil: Evil,
  options: { readonly file: string; readonly spread: boolean; readonly port?: number },
): Promise<Toll> {
  const shuttle = `shuttle@${HOST}`
  await using traffic = await Traffic.start(at(lab, api.name), target(lab, web), {
    rate: TRAFFIC_RATE,
    flows: 2,
  })
  const grown = lab.residentBytes(shuttle)
  const cpu = cpuMs(lab, shuttle)
  const began = performance.now()
  let newPeerMs = 0
  const blow = await evil.throw('again', {
    ...options,
    rate: RATE,
    during: async () => {
      const least = sleep(FLOOD_MS)
      // It has to get in while the flood goes on, which ends only after it.
      newPeerMs = await newPeer(lab)
      await least
    },
  })
  const cpuShare = (cpuMs(lab, shuttle) - cpu) / (performance.now() - began)
  const grownBytes = lab.residentBytes(shuttle) - grown
  return { blow, loss: await traffic.stop(), cpuShare, grownBytes, newPeerMs }
}

/** A host that has begun anew and knows nobody any more talks to the one that is flooded. */
async function newPeer(lab: Lab): Promise<number> {
  await lab.restart('shuttle@gamma')
  const began = performance.now()
  await eventually(async () => {
    const { received } = await ping(at(lab, edge.name), web.ip4, { count: 1, 'timeout-ms': 1000 })
    assert.equal(received, 1)
  })
  return performance.now() - began
}

/**
 * Time that a process has had of the processors. A quarter of it under a flood is not its own: the wires, the bridge and the
 * router of the lab run in the system call that sends a cookie.
 */
function cpuMs(lab: Lab, name: string): number {
  const { pid } = lab.process(name) ?? assert.fail(`${name} does not run`)
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  // Fields 14 and 15 of proc(5), in hundredths of a second.
  return (Number(fields[11]) + Number(fields[12])) * 10
}

function tell(t: TestContext, where: string, toll: Toll): void {
  const { blow, loss, cpuShare, grownBytes, newPeerMs } = toll
  t.diagnostic(describeBlow(where, blow))
  t.diagnostic(
    `${where}: the shuttle takes ${Math.round(cpuShare * 100)} % of a core and ${grownBytes >> 10} KiB more; ` +
      `${loss.lost} of ${loss.sent} lost, longest silence ${Math.round(loss.longestSilenceMs)} ms; ` +
      `a new peer is answered after ${Math.round(newPeerMs)} ms`,
  )
}
