import assert from 'node:assert/strict'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { BLUE, type Known, routedLab } from '../support/blue.ts'
import { at } from '../support/lab.ts'
import { startServers, WEB_PORT } from '../support/servers.ts'

const [web, db, api] = BLUE
const MTU = 1320
/** What a container may believe that does not know better. */
const BELIEVED_MTU = 1500

for (const [where, target] of [
  ['on the same host', db],
  ['on another host', api],
] as const) {
  test(`a sender that exceeds the MTU towards a target ${where} is told, and adapts`, async () => {
    const lab = await routedLab()
    await using made = new AsyncDisposableStack()
    made.use(await withMtu(lab, web, BELIEVED_MTU))
    made.use(await startServers(at(lab, target.name)))
    const place = at(lab, web.name)
    const pings = async (address: string): Promise<string> =>
      (await place.run(['ping', '-c', '2', '-W', '2', '-M', 'do', '-s', '1400', address])).stdout
    assert.match(
      await pings(target.ip4),
      new RegExp(`[Ff]rag(?:mentation)? needed.*mtu\\s*=\\s*${MTU}`),
    )
    assert.match(await pings(target.ip6), new RegExp(`[Pp]acket too big.*mtu\\s*=\\s*${MTU}`))
    assert.match(await place.mustRun(['ip', 'route', 'get', target.ip4]), new RegExp(`mtu ${MTU}`))

    // TCP whose segments are too big at first comes through whole, both ways.
    for (const address of [target.ip4, `[${target.ip6}]`]) {
      const url = `http://${address}:${WEB_PORT}/bytes/3000000`
      const size = await place.mustRun([
        'curl',
        '-s',
        '--max-time',
        '20',
        '-o',
        '/dev/null',
        '-w',
        '%{size_download}',
        url,
      ])
      assert.equal(size, '3000000')
      const sent = await place.mustRun([
        'sh',
        '-c',
        `head -c 3000000 /dev/zero | curl -s --max-time 20 --data-binary @- ${url.replace(/\/bytes.*/, '/count')}`,
      ])
      assert.equal(sent, '3000000')
    }
  })
}

/** Gives an endpoint's device another MTU, and takes it and what was learnt back. */
async function withMtu(lab: Lab, endpoint: Known, mtu: number): Promise<AsyncDisposable> {
  const place = at(lab, endpoint.name)
  await place.ip(`link set eth0 mtu ${mtu}`)
  return {
    [Symbol.asyncDispose]: async () => {
      await place.ip(`link set eth0 mtu ${MTU}`, 'route flush cache')
    },
  }
}
