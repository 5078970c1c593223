import assert from 'node:assert/strict'
import test from 'node:test'
import { formatMacAddress } from '@weft/net'
import { eventually } from '../../support/eventually.ts'
import {
  arpReply,
  type Ends,
  hex,
  neighbourAdvertisement,
  strange,
  udp4,
  udp6,
} from '../../support/frames.ts'
import { sendFrame, startSniffer } from '../../support/probe.ts'
import { BLUE, routedLab } from '../support/blue.ts'
import { countersOf, dropsBetween } from '../support/counters.ts'
import { at, scaled } from '../support/lab.ts'

const [web, db, api] = BLUE
const COUNT = scaled(20, 2000)
const MARK = 'spoofed by a scenario'
const FOREIGN_MAC = '02:66:66:66:66:66'

interface Case {
  readonly what: string
  readonly reason: string
  readonly frame: (honest: Ends, honest6: Ends) => string
}

const CASES: readonly Case[] = [
  {
    what: 'another source MAC',
    reason: 'source_mac',
    frame: (honest) => udp4({ ...honest, sourceMac: FOREIGN_MAC }, MARK),
  },
  {
    what: 'another source MAC in a frame of no known protocol',
    reason: 'source_mac',
    frame: ({ targetMac }) => strange({ sourceMac: FOREIGN_MAC, targetMac }, MARK),
  },
  {
    what: "another endpoint's IPv4 address",
    reason: 'source_ip4',
    frame: (honest) => udp4({ ...honest, source: db.ip4 }, MARK),
  },
  {
    what: "another endpoint's IPv6 address",
    reason: 'source_ip6',
    frame: (_, honest) => udp6({ ...honest, source: db.ip6 }, MARK),
  },
  {
    what: "an ARP reply for another endpoint's address",
    reason: 'source_arp',
    frame: (honest) => arpReply({ ...honest, source: db.ip4 }, honest.sourceMac),
  },
  {
    what: 'an ARP reply with another MAC inside',
    reason: 'source_arp',
    frame: (honest) => arpReply(honest, FOREIGN_MAC),
  },
  {
    what: "a neighbour advertisement for another endpoint's address",
    reason: 'source_nd',
    frame: (_, honest) => neighbourAdvertisement(honest, db.ip6),
  },
]

for (const { what, reason, frame } of CASES) {
  test(`${what} is dropped and counted as ${reason}`, async () => {
    const lab = await routedLab()
    const mac = async (name: string): Promise<string> => {
      const endpoint = await lab.client.endpoints.get({
        tenant: lab.plan.tenant,
        network: 'blue',
        endpoint: name,
      })
      return formatMacAddress(endpoint.mac)
    }
    const macs = { sourceMac: await mac('web'), targetMac: await mac('api') }
    const digits = frame(
      { ...macs, source: web.ip4, target: api.ip4 },
      { ...macs, source: web.ip6, target: api.ip6 },
    )
    // What the frame is made of must not reach the target in any wrapping.
    await using sniffer = await startSniffer(at(lab, api.name), {
      device: 'eth0',
      match: digits.slice(24),
    })
    await using textSniffer = await startSniffer(at(lab, api.name), {
      device: 'eth0',
      match: hex(MARK),
    })

    const before = await countersOf(lab, web.host, web.name)
    await sendFrame(at(lab, web.name), 'eth0', digits, COUNT)
    await eventually(async () => {
      const after = await countersOf(lab, web.host, web.name)
      assert.equal(dropsBetween(before, after, reason), COUNT)
    })
    assert.equal((await sniffer.stop()).matched, 0)
    assert.equal((await textSniffer.stop()).matched, 0)
  })
}
