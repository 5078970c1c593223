import assert from 'node:assert/strict'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { ping } from '../../support/probe.ts'
import { BLUE, routedLab } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import {
  attachEndpoints,
  detachEndpoints,
  fingerprintOfLab,
  identityOf,
  joinAgain,
  PrivateFolder,
  stealIdentity,
  takeInAgain,
  tryToJoin,
  weftAt,
} from '../support/members.ts'
import { makeStranger } from '../support/stranger.ts'

const HOST = 'gamma'
const FORWARDER = `forwarder@${HOST}`
const [web, , , edge] = BLUE

test('a host that leaves is gone, and one command with a new token brings it back', async (t) => {
  const lab = await routedLab()
  using folder = new PrivateFolder()
  const kept = await stealIdentity(lab, HOST, folder)
  const before = await lab.client.hosts.get(HOST)
  let isBack = false
  try {
    const early = await leave(lab)
    assert.equal(early.code, 4, 'it leaves although endpoints are attached')
    await detachEndpoints(lab, HOST)
    const left = await leave(lab)
    assert.equal(left.code, 0, left.stderr)

    assert.deepEqual(secretsIn(identityOf(lab, HOST)), [])
    assert.ok(!(await namesOf(lab)).includes(HOST))
    // What still runs there is nobody any more.
    await eventually(async () => {
      const { dependencies } = await lab.status(HOST)
      const answering = dependencies.filter(({ health }) => health === 'ok')
      assert.deepEqual(
        answering.map(({ name }) => name),
        ['shuttle'],
      )
    })
    await lab.stop(FORWARDER)

    const startedAt = Date.now()
    const joined = await joinAgain(lab, HOST)
    assert.equal(joined.code, 0, joined.stderr)
    const { id, name } = JSON.parse(joined.stdout) as { id: number; name: string }
    assert.equal(name, HOST)
    assert.notEqual(id, before.id, 'a host that left came back as itself')
    assertPrivate(identityOf(lab, HOST))
    await lab.start(FORWARDER)
    await lab.untilReady()
    await attachEndpoints(lab, HOST)
    await eventually(async () => {
      const { received } = await ping(at(lab, web.name), edge.ip4, { count: 1 })
      assert.equal(received, 1)
    })
    t.diagnostic(`answered ${Date.now() - startedAt} ms after the command was given`)
    isBack = true

    // What it was before opens nothing any more.
    const former = await weftAt(at(lab, HOST), ['host', 'rotate-keys', '--identity', kept])
    assert.notEqual(former.code, 0)
    assert.match(former.stderr, /revoked/)
  } finally {
    if (!isBack) await takeInAgain(lab, HOST)
  }
})

test('a token that is no good is refused for its own reason, and nothing is left behind', async (t) => {
  const lab = await routedLab()
  await using stranger = await makeStranger(lab)
  using folder = new PrivateFolder()
  const identity = join(folder.path, 'identity')
  const before = await namesOf(lab)
  const create = async (options: Parameters<Lab['client']['tokens']['create']>[0]) =>
    (await lab.client.tokens.create(options)).text

  const good = await create({ hostName: 'delta' })
  const [head = '', id = '', secret = ''] = good.split('.')
  const expired = await create({ ttlMs: 1000 })
  await new Promise((resolve) => setTimeout(resolve, 1100))
  const revoked = await lab.client.tokens.create({})
  await lab.client.tokens.revoke(revoked.token.id)
  const used = await create({ hostName: 'epsilon' })
  const usedIdentity = join(folder.path, 'used')
  const user = await tryToJoin(lab, stranger, {
    token: used,
    name: 'epsilon',
    identity: usedIdentity,
  })
  assert.equal(user.code, 0, user.stderr)

  const refusals: readonly (readonly [
    what: string,
    attempt: { token: string; name?: string; fingerprint?: string },
    code: string,
    reason: string,
  ])[] = [
    ['used twice', { token: used }, 'token-refused', 'used'],
    ['expired', { token: expired }, 'token-refused', 'expired'],
    ['cut', { token: good.slice(0, -9) }, 'token-refused', 'cut'],
    ['never given out', { token: `${head}.4000000.${secret}` }, 'token-refused', 'unknown'],
    [
      'shown to a domain of another root',
      { token: good, fingerprint: anotherFingerprint(lab) },
      'certificate-refused',
      'unknown-authority',
    ],
    // Of these each costs a second, and nothing of them is only in a lab.
    [
      'of another secret',
      { token: `${head}.${id}.${changed(secret)}` },
      'token-refused',
      'unknown',
    ],
    ['revoked', { token: revoked.text }, 'token-refused', 'revoked'],
    ['for a login', { token: `weft-login-v1.${id}.${secret}` }, 'token-refused', 'other-purpose'],
    ['that is none', { token: 'open sesame' }, 'token-refused', 'not-a-token'],
    ['of another name', { token: good, name: 'zeta' }, 'token-refused', 'other-host'],
  ]
  try {
    for (const [what, attempt, code, reason] of refusals.slice(0, scaled(5, refusals.length))) {
      await t.test(`a token ${what}`, async () => {
        const ended = await tryToJoin(lab, stranger, { name: 'delta', identity, ...attempt })
        assert.notEqual(ended.code, 0)
        const { error } = JSON.parse(ended.stderr) as {
          error: { code: string; facts: { reason: string }; remedy: string }
        }
        assert.equal(error.code, code, ended.stderr)
        assert.equal(error.facts.reason, reason, ended.stderr)
        assert.notEqual(error.remedy, '')
        assert.ok(!ended.stderr.includes(secret), 'the error tells the secret')
        assert.ok(!existsSync(identity), 'something was left behind')
      })
    }
    // None of the refusals has used up the token that was good.
    const ended = await tryToJoin(lab, stranger, { token: good, name: 'delta', identity })
    assert.equal(ended.code, 0, ended.stderr)
  } finally {
    for (const name of ['delta', 'epsilon']) await lab.client.hosts.delete(name)
  }
  assert.deepEqual(await namesOf(lab), before)
})

function leave(lab: Lab): ReturnType<typeof weftAt> {
  return weftAt(at(lab, HOST), ['leave', '--identity', identityOf(lab, HOST), '--yes'])
}

async function namesOf(lab: Lab): Promise<string[]> {
  return (await Array.fromAsync(lab.client.hosts.list())).map(({ name }) => name).toSorted()
}

/** Keys and certificates; lists of others' void keys are no secret. */
function secretsIn(folder: string): string[] {
  return readdirSync(folder).filter((name) => /key|seed|credentials/.test(name))
}

function assertPrivate(folder: string): void {
  for (const path of [folder, ...readdirSync(folder).map((name) => join(folder, name))]) {
    assert.equal(statSync(path).mode & 0o077, 0, path)
  }
}

/** Another text of the same form. */
function changed(text: string): string {
  return `${text.startsWith('a') ? 'b' : 'a'}${text.slice(1)}`
}

function anotherFingerprint(lab: Lab): string {
  const [kind = '', digits = ''] = fingerprintOfLab(lab).split(':')
  return `${kind}:${changed(digits)}`
}
