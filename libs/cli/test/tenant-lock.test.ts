import assert from 'node:assert/strict'
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { generateIdentityKey, parseTenantKeys, pemOfKey, publicKeyOf } from '@weft/identity'
import { type Io, runCli } from '../src/program.ts'
import { type FakeControl, startFakeControl } from './fake-control.ts'

let control: FakeControl
const folder = mkdtempSync(join(tmpdir(), 'weft-cli-tenant-lock-'))
const key = join(folder, 'tenant.key')
const other = join(folder, 'other.key')

before(async () => {
  control = await startFakeControl()
  await control.writeOwner(join(folder, 'owner'))
  writeFileSync(other, pemOfKey(generateIdentityKey()), { mode: 0o600 })
})
after(async () => {
  await control[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

// One story: each test goes on where the one before ended.

test('a tenant that is not locked says so, and has nothing to sign or to unlock', async () => {
  assert.match((await weft('tenant show default')).stdout, /^locked +no$/m)
  for (const line of ['tenant sign', 'tenant unlock']) {
    const outcome = await weft(`${line} default --key ${other} --yes`)
    assert.equal(outcome.code, 4)
    assert.match(outcome.stderr, /is not locked/)
  }
  assert.equal((await weft(`tenant sign default --key ${key} --yes`)).code, 2)
})

test('nobody is locked without having seen what is signed, and agreed', async () => {
  const sure = await weft(`tenant lock default --key ${key} --yes`)
  assert.equal(sure.code, 2)
  assert.match(sure.stderr, /--accept-new covers what is new/)
  const asked = await weft(`tenant lock default --key ${key}`)
  assert.equal(asked.code, 2)
  assert.match(asked.stderr, /NEW +network red +id 7, VNI 77/)
  assert.match(asked.stderr, /NEW +host alpha in network red +ed25519:[0-9a-f]{64} x25519:/)
  const refused = await weft(`tenant lock default --key ${key}`, { isTerminal: true, input: 'n' })
  assert.equal(refused.code, 2)
  assert.throws(() => statSync(key))
})

test('the lock makes the key, which only its owner reads, and signs', async () => {
  const locked = await weft(`tenant lock default --key ${key}`, { isTerminal: true, input: 'y' })
  assert.equal(locked.code, 0, locked.stderr)
  assert.match(locked.stdout, /tenant default is locked, and 2 statements signed with key 1/)
  assert.equal(statSync(key).mode & 0o777, 0o600)
  assert.match((await weft(`tenant sign default --key ${key}`)).stdout, /nothing to sign/)
})

test('it is shown with the line for hosts that join, and as JSON and YAML', async () => {
  const shown = await weft('tenant show default')
  assert.match(shown.stdout, /^locked +yes, by key 1$/m)
  assert.match(shown.stdout, /network red +id 7, VNI 77 +20\d\d-.* yes$/m)
  const line = /^for tenant-keys +(.*)$/m.exec(shown.stdout)?.[1] ?? ''
  const [pin] = parseTenantKeys(line)
  assert.equal(pin?.tenant, 'default')
  const { lock } = JSON.parse((await weft('tenant show default -o json')).stdout) as {
    lock: { isLocked: boolean; sayings: unknown[]; keys: { publicKey: string }[] }
  }
  assert.equal(lock.isLocked, true)
  assert.equal(lock.sayings.length, 3)
  assert.equal(lock.keys[0]?.publicKey, pin?.publicKey.toString('hex'))
  assert.match((await weft('tenant show default -o yaml')).stdout, /isLocked: true/)
})

test('another key of a host is shown as changed, with what was before, and a warning', async () => {
  const before = control.proposed.identityKey.toString('hex')
  control.proposed.identityKey = publicKeyOf(generateIdentityKey())
  const asked = await weft(`tenant sign default --key ${key}`)
  assert.equal(asked.code, 2)
  assert.match(asked.stderr, /CHANGED +host alpha/)
  assert(asked.stderr.includes(`ed25519:${before}`))
  assert.match(asked.stderr, /warning: 1 statement about keys/)
  for (const option of ['--yes', '--accept-new']) {
    const refused = await weft(`tenant sign default --key ${key} ${option}`)
    assert.equal(refused.code, 2)
    assert.match(refused.stderr, /somebody has to look at them/)
  }
  const signed = await weft(`tenant sign default --key ${key}`, { isTerminal: true, input: 'y' })
  assert.match(signed.stdout, /1 statement signed/)
  assert.equal(statSync(`${key}.signed`).mode & 0o777, 0o600)
})

test('without anybody who looks renewals are signed, what is new if it may be, and nothing that has changed', async () => {
  const before = control.proposed.identityKey
  control.proposed.identityKey = publicKeyOf(generateIdentityKey())
  const changed = await weft(`tenant sign default --key ${key} --days 65 --yes`)
  assert.equal(changed.code, 0)
  assert.match(changed.stderr, /warning: not signed: 1 statement/)
  assert.match(changed.stdout, /1 statement signed/)
  control.proposed.identityKey = before

  renameSync(`${key}.signed`, `${key}.away`)
  writeFileSync(`${key}.signed`, 'hunter')
  const broken = await weft(`tenant sign default --key ${key} --yes`)
  assert.equal(broken.code, 2)
  renameSync(`${key}.away`, `${key}.signed`)
})

test('what has less than half of its time left is signed again', async () => {
  const signed = await weft(`tenant sign default --key ${key} --days 200 --yes`)
  assert.match(signed.stderr, /RENEWAL +network red/)
  assert.match(signed.stdout, /2 statements signed/)
  for (const days of ['0', '401', 'x']) {
    assert.equal((await weft(`tenant sign default --key ${key} --days ${days}`)).code, 2)
  }
})

test('another key is told from the one that speaks, and takes over only by its word', async () => {
  const wrong = await weft(`tenant sign default --key ${other} --yes`)
  assert.equal(wrong.code, 2)
  assert.match(wrong.stderr, /is not key 1 of tenant default/)
  const alone = await weft(`tenant lock default --key ${other} --yes`)
  assert.equal(alone.code, 6)
  assert.match(alone.stderr, /--replaces FILE/)
  const replaced = await weft(`tenant lock default --key ${other} --replaces ${key} --yes`)
  assert.match(replaced.stdout, /2 statements signed with key 2/)
  assert.equal((await weft(`tenant sign default --key ${key} --yes`)).code, 2)
})

test('the key ends the lock, and nothing that was said is left', async () => {
  assert.equal((await weft(`tenant unlock default --key ${key} --yes`)).code, 2)
  assert.equal((await weft(`tenant unlock default --key ${other}`)).code, 2)
  const unlocked = await weft(`tenant unlock default --key ${other} --yes`)
  assert.match(unlocked.stdout, /locked no longer/)
  assert.match((await weft('tenant show default')).stdout, /^locked +no$/m)
})

test('a key that others may read, or that is none, is refused without a word of it', async () => {
  const open = join(folder, 'open.key')
  writeFileSync(open, readFileSync(other), { mode: 0o644 })
  const text = join(folder, 'text.key')
  writeFileSync(text, 'hunter2', { mode: 0o600 })
  for (const file of [open, text]) {
    const outcome = await weft(`tenant lock default --key ${file} --replaces ${other} --yes`)
    assert.equal(outcome.code, 2)
    assert(!outcome.stderr.includes('hunter2'))
  }
})

test('what is new is signed without a question only where that was said', async () => {
  rmSync(`${other}.signed`)
  const line = `tenant lock default --key ${key} --replaces ${other}`
  rmSync(`${key}.signed`)
  assert.equal((await weft(`${line} --yes`)).code, 2)

  const locked = await weft(`${line} --accept-new`)

  assert.match(locked.stderr, /NEW +network red/)
  assert.match(locked.stdout, /2 statements signed/)
})

test('the holder of the key compares it with what the host itself says', async () => {
  const shown = await weft(`host keys --identity ${join(folder, 'owner')}`)
  assert.match(shown.stdout, /^identity +ed25519:[0-9a-f]{64}$/m)
  const nobody = await weft(`host keys --identity ${join(folder, 'nobody')}`)
  assert.equal(nobody.code, 7)
  assert.match(nobody.stderr, /weft join/)
})

test('the keys that a host is to trust are checked before it joins', async () => {
  const file = join(folder, 'keys')
  writeFileSync(file, 'default hunter\n')
  const line = `join --control 127.0.0.1:1 --fingerprint sha256:${'ab'.repeat(32)} --token-file - --tenant-keys`
  const token = `weft-join-v1.1.${Buffer.alloc(32, 1).toString('base64url')}`
  const broken = await weft(`${line} ${file} --name a --identity ${folder}/h`, { input: token })
  assert.equal(broken.code, 2)
  assert.match(broken.stderr, /line 1 is not ID TENANT NUMBER ed25519:KEY/)
  assert.equal((await weft(`${line} ${folder}/none --name a`, { input: token })).code, 2)
})

test('a machine that has lost the keys that it knew says so when it joins again', async () => {
  const state = join(folder, 'forwarder')
  const line = `join --control 127.0.0.1:1 --fingerprint sha256:${'ab'.repeat(32)} --token-file - --name a --identity ${folder}/h`
  const input = `weft-join-v1.1.${Buffer.alloc(32, 1).toString('base64url')}`
  const warnings = async () => /keys of locked tenants/.test((await weft(line, { input })).stderr)

  assert.equal(await warnings(), false)
  mkdirSync(state)
  assert.equal(await warnings(), true)
  writeFileSync(join(state, 'pins'), '')
  assert.equal(await warnings(), false)
})

interface Given {
  /** What standard input says. */
  readonly input?: string
  readonly isTerminal?: boolean
}

async function weft(
  line: string,
  { input = '', isTerminal = false }: Given = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  let stdout = ''
  let stderr = ''
  const io: Io = {
    stdout: (text) => {
      stdout += text
    },
    stderr: (text) => {
      stderr += text
    },
    env: {
      WEFT_CONTROL: control.address,
      WEFT_IDENTITY: join(folder, 'owner'),
      WEFT_FORWARDER_STATE_DIR: join(folder, 'forwarder'),
      NO_COLOR: '1',
    },
    isTerminal,
    isErrorTerminal: isTerminal,
    isInputTerminal: isTerminal,
    readInput: async () => input,
    ask: async () => input,
    columns: 100,
  }
  const code = await runCli(line.split(' '), io)
  return { code, stdout, stderr }
}
