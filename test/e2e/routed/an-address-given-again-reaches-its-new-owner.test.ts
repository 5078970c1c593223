import assert from 'node:assert/strict'
import test from 'node:test'
import { NewPlace } from '../../support/place.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, routedLab } from '../support/blue.ts'
import { address, at, PREFIX } from '../support/lab.ts'

const [web] = BLUE
const ADDRESS = '10.20.9.9'

test('an address that another endpoint gets is reached there, though neighbours remember the old MAC', async () => {
  const lab = await routedLab()
  const ref = { tenant: lab.plan.tenant, network: 'blue', endpoint: 'owner' }
  for (const host of ['beta', 'gamma', 'alpha']) {
    await using place = await NewPlace.make(`${PREFIX}-owner`)
    await lab.client.endpoints.create({ ...ref, addresses: [address(ADDRESS)] })
    await lab.client.host(host).attach(ref, { kind: 'netns', path: place.path })
    try {
      const { received } = await ping(at(lab, web.name), ADDRESS, { count: 5, 'timeout-ms': 1000 })
      assert.ok(received >= 4, `${received} of 5 answered from ${host}`)
    } finally {
      await lab.client.host(host).detach(ref)
      await lab.client.endpoints.delete(ref)
    }
  }
})
