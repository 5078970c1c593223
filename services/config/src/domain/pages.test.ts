import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { InvalidArgumentError } from '@weft/errors'
import { endpointsAfter, networksAfter, pageOf, tenantsAfter } from './pages.ts'
import { deleteTenant, tenantNamed } from './requests/tenants.ts'
import { TestWorld } from './test-world.ts'

let world: TestWorld

beforeEach(() => {
  world = new TestWorld()
})

test('pages together hold everything once, in order, across tenants and networks', () => {
  const paths: string[] = []
  for (const tenant of ['zeta', 'acme', 'mid']) {
    world.tenant(tenant)
    for (const network of ['red', 'blue', 'empty']) {
      world.network(`${tenant}/${network}`, '10.20.0.0/16')
      for (const name of network === 'empty' ? [] : ['web', 'api', 'db']) {
        world.endpoint(`${tenant}/${network}/${name}`)
        paths.push(`${tenant}/${network}/${name}`)
      }
    }
  }
  const seen: string[] = []
  let token = ''
  do {
    const items = [...endpointsAfter(world.database, 'all', undefined, undefined, token)]
    seen.push(...items.slice(0, 4).map(({ path }) => path))
    const page = pageOf(items, 4, () => 1)
    assert.ok(page.records.length <= 4)
    token = page.nextToken
  } while (token !== '')
  assert.deepEqual(seen, paths.sort())
  const acme = tenantNamed(world.database, 'acme')
  assert.deepEqual(
    [...networksAfter(world.database, 'all', acme, 'acme/blue')].map(({ path }) => path),
    ['acme/empty', 'acme/red'],
  )
})

test('a page goes on behind the place of an object that was removed meanwhile', () => {
  for (const name of ['a', 'b', 'c']) world.tenant(name)
  const { nextToken } = pageOf(tenantsAfter(world.database, 'all', ''), 2, () => 1)
  assert.equal(nextToken, 'b')
  world.run(deleteTenant(world.database, { idempotencyKey: '', name: 'b' }))
  const rest = pageOf(tenantsAfter(world.database, 'all', nextToken), 2, () => 1)
  assert.deepEqual(rest, { records: [tenantNamed(world.database, 'c')], nextToken: '' })
})

test('a page ends before 1 MiB, and holds at least one object', () => {
  for (const name of ['a', 'b', 'c']) world.tenant(name)
  const page = pageOf(tenantsAfter(world.database, 'all', ''), 0, () => 600_000)
  assert.equal(page.records.length, 1)
  assert.equal(pageOf(tenantsAfter(world.database, 'all', ''), 0, () => 9_000_000).nextToken, 'a')
})

test('a page of more than 1000 and a token that no page gave are refused', () => {
  assert.throws(() => pageOf([], 1001, () => 1), InvalidArgumentError)
  assert.throws(
    () => networksAfter(world.database, 'all', undefined, 'a/b/c'),
    InvalidArgumentError,
  )
})
