import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { Breaker } from './breaker.ts'
import { type Claim, LocationClaims } from './location-claims.ts'

function claim(endpointId: number, sequence: bigint, change: Claim['change'] = 'attached'): Claim {
  return { change, endpointId, networkId: 1, addresses: [], sequence, configRevision: 0n }
}

describe('claims of places', () => {
  test('a claim is handed out once and again after it was lost', () => {
    const claims = new LocationClaims()
    claims.add(claim(1, 1n), 0)

    assert.equal(claims.takeDue(0, 10).length, 1)
    assert.equal(claims.takeDue(0, 10).length, 0)
    claims.failed(claim(1, 1n), 0, 1)
    assert.equal(claims.takeDue(99, 10).length, 0)
    assert.equal(claims.takeDue(100, 10).length, 1)
  })

  test('an acknowledged claim is said no more, and its epoch is known', () => {
    const claims = new LocationClaims()
    claims.add(claim(1, 1n), 0)

    assert.equal(claims.acknowledged(claim(1, 1n), 4n), true)

    assert.equal(claims.pendingCount, 0)
    assert.equal(claims.epochs.get(1), 4n)
  })

  test('a late acknowledgement of an older claim does not silence the newer one', () => {
    const claims = new LocationClaims()
    claims.add(claim(1, 1n), 0)
    claims.add(claim(1, 2n, 'detached'), 0)

    assert.equal(claims.acknowledged(claim(1, 1n), 4n), false)

    assert.deepEqual(
      claims.takeDue(0, 10).map(({ sequence }) => sequence),
      [2n],
    )
  })

  test('saying everything once more is spread over time and says no detached endpoint that was heard', () => {
    const claims = new LocationClaims()
    for (const id of [1, 2, 3]) {
      claims.add(claim(id, 1n), 0)
      claims.acknowledged(claim(id, 1n), 1n)
    }
    claims.add(claim(3, 2n, 'detached'), 0)
    claims.acknowledged(claim(3, 2n, 'detached'), 0n)

    claims.announceAll(0, 10)

    assert.equal(claims.takeDue(0, 10).length, 1)
    assert.equal(claims.takeDue(100, 10).length, 1)
    assert.equal(claims.takeDue(10_000, 10).length, 0)
  })
})

describe('the breaker', () => {
  test('it opens at the first failure and closes at the first answer', () => {
    const breaker = new Breaker(0)
    assert.deepEqual(breaker.status(5), { health: 'unknown', ageMs: 5, error: '' })

    assert.equal(breaker.succeeded(10), true)
    assert.equal(breaker.failed('gone'), true)
    assert.equal(breaker.failed('gone'), false)

    assert.equal(breaker.isClosed, false)
    assert.deepEqual(breaker.status(30), { health: 'stale', ageMs: 20, error: 'gone' })
    assert.equal(breaker.succeeded(40), true)
    assert.equal(breaker.isClosed, true)
  })
})
