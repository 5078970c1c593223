import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { TenantNotLockedError } from '@weft/errors'
import {
  generateIdentityKey,
  generateTunnelKey,
  openTenantStatement,
  publicKeyOf,
  signTenantStatement,
} from '@weft/identity'
import { StoredStatement } from '@weft/proto/weftline/config/v1/records.ts'
import type { Proposal } from '@weft/proto/weftline/config/v1/tenant_lock_service.ts'
import type { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import type { Control } from './control.ts'
import { TenantLedger } from './tenant-ledger.ts'
import { TenantLocks } from './tenant-lock.ts'

/* What config says of a lock, where it may be lying. */

const DOMAIN = 'test.weft'
const DAY_MS = 24 * 3_600_000
const NOW = new Date('2026-03-01T12:00:00Z')
const END = BigInt(NOW.getTime() + 30 * DAY_MS)
const key = generateIdentityKey()
const next = generateIdentityKey()
const stranger = generateIdentityKey()
const hostKey = publicKeyOf(generateIdentityKey())
const tunnelKey = publicKeyOf(generateTunnelKey())

let stored: StoredStatement[]
let proposals: Proposal[]
let given: Signed[]
let locks: TenantLocks

beforeEach(() => {
  stored = []
  proposals = []
  given = []
  const tenantLock = {
    listStatements: async () => ({ statements: stored, nextToken: '' }),
    listProposals: async () => ({ proposals, nextToken: '' }),
    putStatement: async ({ statement }: { readonly statement: Signed }) => {
      given.push(statement)
      store(statement)
      return {}
    },
    deleteStatement: async ({ id }: { readonly id: number }) => {
      const before = stored.length
      stored = stored.filter((one) => one.id !== id)
      return { deleted: stored.length < before }
    },
  }
  locks = new TenantLocks({ domain: async () => DOMAIN, tenantLock } as unknown as Control)
})

test('a chain of keys goes on only by what the key before has signed', async () => {
  say(keyed(1n), key)
  say(keyed(2n, next), next)
  say(keyed(3n, stranger), key)
  assert.deepEqual(await keyNumbers(), [1])

  say(keyed(2n, next), key)
  assert.deepEqual(await keyNumbers(), [1, 2])
})

test('what another key signed, or nobody, or for another domain or tenant, does not count', async () => {
  say(keyed(1n), key)
  say(charter(), stranger)
  store({ ...signTenantStatement(charter(), key), signature: Buffer.alloc(64) })
  say({ ...charter(), domain: 'other.weft' }, key)
  say({ ...charter(), tenant: 'other' }, key)

  const { sayings, isLocked } = await locks.get('acme')

  assert.equal(isLocked, true)
  const counting = sayings.filter(({ counts }) => counts)
  assert.deepEqual(
    counting.map(({ word }) => word.kind),
    ['key'],
  )
})

test('a review tells what is new, what is other than before, and what ends soon, and nothing twice', async () => {
  say(keyed(1n), key)
  proposals = [proposed(charter()), proposed(member())]
  assert.deepEqual(await reasons(), ['new network', 'new membership'])

  await locks.sign(await review(), key)
  assert.deepEqual(await reasons(), [])
  assert.deepEqual(await reasons(new Date(NOW.getTime() + 16 * DAY_MS)), [
    'renewal network',
    'renewal membership',
  ])

  proposals = [proposed(charter()), proposed(member(publicKeyOf(stranger)))]
  const { proposals: changed } = await review()
  assert.deepEqual(
    changed.map(({ reason, word }) => `${reason} ${word.kind}`),
    ['changed membership'],
  )
  const before = changed[0]?.before
  assert(before?.kind === 'membership' && before.identityKey === hostKey.toString('hex'))
})

test('what is signed is of our domain and of the tenant that our key says, whatever config proposes', async () => {
  say(keyed(1n), key)
  proposals = [proposed({ ...charter(), domain: 'evil.weft', tenantId: 99, tenant: 'other' })]
  proposals.push(proposed(keyed(2n, stranger)))

  await locks.sign(await review(), key)

  assert.equal(given.length, 1)
  const { tenant, tenantId, about } = openTenantStatement(given[0], DOMAIN)
  assert.deepEqual([tenant, tenantId, about?.$case], ['acme', 17, 'network'])
})

test('a number is higher than any before, also by a clock that went back', async () => {
  say(keyed(1n), key)
  say({ ...charter(), number: BigInt(NOW.getTime() + DAY_MS), notAfterUnixMs: soon() }, key)
  proposals = [proposed(charter())]

  await locks.sign(await review(), key)

  const { number } = openTenantStatement(given[0], DOMAIN)
  assert.equal(number, BigInt(NOW.getTime() + DAY_MS) + 1n)
})

test('what config keeps back of what was signed is still known to who signed it', async () => {
  say(keyed(1n), key)
  proposals = [proposed(charter()), proposed(member())]
  const signed = await review()
  const notes = new TenantLedger()
  for (const { statement } of signed.proposals) notes.note(statement)
  const ledger = TenantLedger.parse(notes.text, 'ledger')
  await locks.sign(signed, key)
  const reasonsNow = async () =>
    (await review(NOW, ledger)).proposals.map(({ reason, word }) => `${reason} ${word.kind}`)
  assert.deepEqual(await reasonsNow(), [])

  stored = []
  say(keyed(1n), key)
  proposals = [proposed(charter()), proposed(member(publicKeyOf(stranger)))]

  assert.deepEqual(await reasonsNow(), ['renewal network', 'changed membership'])
  const { proposals: now } = await review(NOW, ledger)
  assert(now[1]?.before?.kind === 'membership')
  assert.equal(now[1].before.identityKey, hostKey.toString('hex'))
  const [before] = signed.proposals
  assert(before && now[0] && now[0].statement.number > before.statement.number)
})

test('config that shows an older word than the last one hides nothing of it', async () => {
  say(keyed(1n), key)
  say({ ...member(publicKeyOf(stranger)), notAfterUnixMs: END }, key)
  const ledger = new TenantLedger()
  ledger.note({ ...member(), number: 2n })
  proposals = [proposed(member(publicKeyOf(stranger)))]

  const { proposals: now } = await review(NOW, ledger)

  assert.deepEqual(
    now.map(({ reason }) => reason),
    ['changed'],
  )
})

test('a ledger that is none is refused with its line', () => {
  assert.throws(() => TenantLedger.parse('\nhunter', 'acme.key.signed'), /acme.key.signed:2/)
})

test('what config proposes no longer is told, and not signed again', async () => {
  say(keyed(1n), key)
  say({ ...member(), notAfterUnixMs: soon() }, key)

  const { proposals: none, leftovers } = await review()

  assert.deepEqual(none, [])
  assert.deepEqual(
    leftovers.map(({ word }) => word.kind),
    ['membership'],
  )
})

test('networks are signed before who is in them', async () => {
  say(keyed(1n), key)
  proposals = [proposed(member()), proposed(charter())]

  await locks.sign(await review(), key)

  const kinds = given.map((signed) => openTenantStatement(signed, DOMAIN).about?.$case)
  assert.deepEqual(kinds, ['network', 'membership'])
})

test('the end of a lock is the next key of the chain, and takes away what was said', async () => {
  await assert.rejects(locks.unlock({ tenant: 'acme', tenantId: 17, key }), TenantNotLockedError)
  await locks.lock({ tenant: 'acme', tenantId: 17, key })
  say(charter(), key)

  await locks.unlock({ tenant: 'acme', tenantId: 17, key })

  const { isLocked, keys, sayings } = await locks.get('acme')
  assert.equal(isLocked, false)
  assert.deepEqual(
    keys.map(({ publicKey }) => publicKey.length),
    [64, 0],
  )
  assert(sayings.every(({ word }) => word.kind === 'key'))
})

function review(now = NOW, ledger = new TenantLedger()) {
  const lifetimeMs = 30 * DAY_MS
  return locks.review({ tenant: 'acme', tenantId: 17, lifetimeMs, now, ledger })
}

async function reasons(now = NOW): Promise<string[]> {
  return (await review(now)).proposals.map(({ reason, word }) => `${reason} ${word.kind}`)
}

async function keyNumbers(): Promise<number[]> {
  return (await locks.get('acme')).keys.map(({ number }) => number)
}

/** Has config keep a statement, whatever it is worth; one about the same is replaced, as config would. */
function store(statement: Signed): void {
  const { about, number } = TenantStatement.decode(statement.payload)
  const isSame = ({ statement: other }: StoredStatement): boolean => {
    const known = TenantStatement.decode(other?.payload ?? Buffer.alloc(0))
    return about?.$case !== 'key' && known.about?.$case === about?.$case && known.number < number
  }
  stored = stored.filter((one) => !isSame(one))
  const id = 1 + Math.max(0, ...stored.map((one) => one.id))
  stored.push(StoredStatement.create({ id, tenantId: 17, statement }))
}

function say(content: TenantStatement, by: typeof key): void {
  store(signTenantStatement(content, by))
}

function statement(about: TenantStatement['about']): TenantStatement {
  const names = { domain: DOMAIN, tenantId: 17, tenant: 'acme' }
  return { ...names, number: 1n, notAfterUnixMs: soon(), about }
}

function keyed(number: bigint, publicKey = key): TenantStatement {
  const value = { publicKey: publicKeyOf(publicKey) }
  return { ...statement({ $case: 'key', value }), number, notAfterUnixMs: 0n }
}

function charter(): TenantStatement {
  return statement({ $case: 'network', value: { networkId: 7, network: 'red', vni: 77 } })
}

function member(identityKey = hostKey): TenantStatement {
  const value = { networkId: 7, hostId: 3, identityKey, tunnelKey, plainAddresses: [] }
  return statement({ $case: 'membership', value })
}

function proposed(content: TenantStatement): Proposal {
  return { statement: content, host: 'alpha' }
}

function soon(): bigint {
  return BigInt(NOW.getTime() + DAY_MS)
}
