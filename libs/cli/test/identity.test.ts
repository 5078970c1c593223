import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { generateIdentityKey, signStatement } from '@weft/identity'
import { AuditRecord } from '@weft/proto/weftline/audit/v1/audit.ts'
import { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import { type Io, runCli } from '../src/program.ts'
import { type FakeControl, startFakeControl, TOKEN_TEXT } from './fake-control.ts'

let control: FakeControl
const folder = mkdtempSync(join(tmpdir(), 'weft-cli-identity-'))

before(async () => {
  control = await startFakeControl()
  await control.writeOwner(join(folder, 'owner'))
})
after(async () => {
  await control[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

test('a domain is made with its fingerprint and the next steps on one screen, and never over another', async () => {
  const out = join(folder, 'lab.example')
  const made = await weft(`init --domain lab.example --out ${out}`)
  assert.equal(made.code, 0, made.stderr)
  assert.match(made.stdout, /^fingerprint sha256:[0-9a-f]{64}$/m)
  assert(made.stdout.split('\n').length <= 24)
  const again = await weft(`init --domain lab.example --out ${out}`)
  assert.equal(again.code, 2)
  assert.match(again.stderr, /never overwritten/)
})

test('a token goes to standard output alone, or into a file that only its owner reads', async () => {
  const shown = await weft('token create --ttl 1h --label rack=7')
  assert.equal(shown.stdout, `${TOKEN_TEXT}\n`)
  assert.match(shown.stderr, /good for one host until/)
  const file = join(folder, 'token')
  const written = await weft(`token create --out ${file}`)
  assert.equal(written.code, 0, written.stderr)
  assert(!written.stdout.includes(TOKEN_TEXT))
  assert.equal(readFileSync(file, 'utf8'), `${TOKEN_TEXT}\n`)
  assert.equal(statSync(file).mode & 0o777, 0o600)
  assert.equal((await weft(`token create --out ${file}`)).code, 2)
})

test('a token is never taken from the arguments, and a cut one is refused without being repeated', async () => {
  const line = `join --control 127.0.0.1:1 --fingerprint sha256:${'ab'.repeat(32)} --name alpha --identity ${join(folder, 'host')}`
  assert.match(
    (await weft(`${line} --token-file - --token ${TOKEN_TEXT}`)).stderr,
    /unknown option '--token'/,
  )
  const cut = TOKEN_TEXT.slice(0, 30)
  const refused = await weft(`${line} --token-file -`, { input: cut })
  assert.equal(refused.code, 6)
  assert.match(refused.stderr, /token create/)
  assert(!refused.stderr.includes(cut))
  const unreachable = await weft(`${line} --token-file -`, { input: TOKEN_TEXT })
  assert.equal(unreachable.code, 5)
  assert(!unreachable.stderr.includes(TOKEN_TEXT))
})

test('a host is revoked after a question on a terminal, and else only with --yes', async () => {
  const refused = await weft('host revoke alpha')
  assert.equal(refused.code, 2)
  assert.match(refused.stderr, /try: say --yes/)
  assert.equal((await weft('host revoke alpha', { isTerminal: true, input: 'n' })).code, 2)
  assert.equal((await weft('host revoke alpha', { isTerminal: true, input: 'y' })).code, 0)
  assert.equal((await weft('host revoke alpha --yes')).code, 0)
  assert.equal((await weft('host revoke omega --yes')).code, 3)
})

test('a user gets roles, more of them, and only these', async () => {
  assert.equal((await weft('user create ada --grant operator@default')).code, 0)
  assert.match((await weft('user ls')).stdout, /ada +2 +never +operator@default/)
  const more = await weft('user grant ada auditor')
  assert.match(more.stdout, /operator@default, auditor/)
  const only = await weft('user grant ada subscriber@default --replace')
  assert.match(only.stdout, /has: subscriber@default\n/)
  assert.match((await weft('user create eve --grant king')).stderr, /owner, operator/)
  assert.equal((await weft('user grant nobody auditor')).code, 3)
})

test('contexts are listed, chosen, shown and forgotten', async () => {
  const file = join(folder, 'contexts.json')
  const identity = join(folder, 'owner')
  const contexts = {
    a: { control: control.address, identity },
    b: { control: '127.0.0.1:1', tenant: 'acme', identity: 'relative' },
  }
  writeFileSync(file, JSON.stringify({ current: 'b', contexts }))
  const env = { WEFT_CONTEXT: file, WEFT_CONTROL: undefined, WEFT_IDENTITY: undefined }
  assert.match(
    (await weft('context ls', { env })).stdout,
    /\* +b +127\.0\.0\.1:1 +acme +\S+relative/,
  )
  assert.equal((await weft('tenant ls --context a', { env })).code, 0)
  assert.match((await weft('tenant ls --context c', { env })).stderr, /there is no context c/)
  assert.equal((await weft('context use a --set-tenant default', { env })).code, 0)
  const shown = (await weft('context show', { env })).stdout
  assert.match(shown, /who +spiffe:\/\/test\.weft\/user\/1/)
  assert.match(shown, /fingerprint +sha256:[0-9a-f]{64}$/m)
  assert.equal((await weft('tenant ls', { env })).code, 0)
  assert.equal((await weft('context rm a', { env })).code, 0)
  assert.equal((await weft('context use a', { env })).code, 2)
})

test('the audit is listed, verified and exported, and a changed export is found', async () => {
  assert.match(
    (await weft('audit ls')).stdout,
    /intent +spiffe:\/\/test\.weft\/user\/1 +CreateHost/,
  )
  const verified = await weft('audit verify')
  assert.equal(verified.code, 0, verified.stdout + verified.stderr)
  const file = join(folder, 'audit.jsonl')
  assert.match((await weft(`audit export --out ${file}`)).stdout, /2 entries of 1 writers/)
  assert.equal((await weft(`audit export --out ${file}`)).code, 2)
  assert.equal((await weft(`audit verify --file ${file}`)).code, 0)
  assert.equal((await weft(`audit verify --file ${file} --signer ${'ab'.repeat(32)}`)).code, 6)
  const made = join(folder, 'made-up.jsonl')
  writeFileSync(made, signedByOther(readFileSync(file, 'utf8')))
  const other = await weft(`audit verify --file ${made}`)
  assert.equal(other.code, 6)
  assert.match(other.stdout, /a head that no known service signed/)
  const alone = await weft(`audit verify --file ${file}`, { env: { WEFT_CONTROL: '127.0.0.1:1' } })
  assert.equal(alone.code, 2)
  assert.match(alone.stderr, /domain\.json/)
  const [head, , last] = readFileSync(file, 'utf8').split('\n')
  writeFileSync(file, `${head}\n${last}\n`)
  const cut = await weft(`audit verify --file ${file}`)
  assert.equal(cut.code, 6)
  assert.match(cut.stdout, /entry 1 of chain w is missing/)
})

test('the audit is verified with the files of a replica, and an entry that one of them lacks is found', async () => {
  const exported = join(folder, 'for-files.jsonl')
  await weft(`audit export --out ${exported}`)
  const { head, entries } = chainIn(readFileSync(exported, 'utf8'))
  const files = join(folder, 'audit')
  mkdirSync(files)
  const path = join(files, 'w.audit')

  writeFileSync(path, auditFile(head, entries))
  const whole = await weft(`audit verify --files ${files} -o json`)
  writeFileSync(join(files, 'before.audit'), auditFile(head, entries))
  const removed = await weft(`audit verify --files ${files}`)
  rmSync(join(files, 'before.audit'))
  writeFileSync(path, auditFile(head, entries.slice(1)))
  const cut = await weft(`audit verify --files ${files}`)
  writeFileSync(path, 'something else')
  const damaged = await weft(`audit verify --files ${files}`)

  assert.equal(whole.code, 0, whole.stdout + whole.stderr)
  const [{ copies, problems }] = JSON.parse(whole.stdout) as [Record<string, unknown>]
  assert.deepEqual([copies, problems], [['bucket', path], []])
  assert.equal(removed.code, 6)
  assert.match(removed.stdout, /belongs to another chain/)
  assert.equal(cut.code, 6)
  assert(cut.stdout.includes(`entry 1 of chain w (${path}) is missing`), cut.stdout)
  assert.equal(damaged.code, 6)
  assert.match(damaged.stdout, /has damaged records in its file/)
  for (const wrong of [join(folder, 'nowhere'), join(folder, 'owner')]) {
    const refused = await weft(`audit verify --files ${wrong}`)
    assert.equal(refused.code, 2)
    assert.match(refused.stderr, /WEFT_CONFIG_AUDIT_FOLDER/)
  }
})

test('without an identity it says how to get one', async () => {
  const outcome = await weft('tenant ls', { env: { WEFT_IDENTITY: undefined } })
  assert.equal(outcome.code, 2)
  assert.match(outcome.stderr, /weft login/)
  const nobody = await weft('tenant ls', { env: { WEFT_IDENTITY: join(folder, 'nobody') } })
  assert.equal(nobody.code, 7)
})

function chainIn(jsonl: string): { readonly head: Signed; readonly entries: Buffer[] } {
  const [first = '', ...lines] = jsonl.trimEnd().split('\n')
  const { head } = JSON.parse(first) as { head: string }
  return {
    head: Signed.decode(Buffer.from(head, 'base64')),
    entries: lines.map((line) =>
      Buffer.from((JSON.parse(line) as { entry: string }).entry, 'base64'),
    ),
  }
}

/** A chain as config keeps it in a file. */
function auditFile(head: Signed, entries: readonly Buffer[]): Buffer {
  const frames = [
    ...entries.map((value) => ({ $case: 'entry' as const, value })),
    { $case: 'head' as const, value: head },
  ].map((kind) => {
    const payload = AuditRecord.encode({ kind }).finish()
    const header = Buffer.alloc(8)
    header.writeUInt32LE(payload.byteLength, 0)
    header.writeUInt32LE(crc32c(payload), 4)
    return Buffer.concat([header, payload])
  })
  return Buffer.concat([Buffer.from('weftaud1'), ...frames])
}

function crc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f6_3b78 : crc >>> 1
  }
  return (crc ^ 0xffff_ffff) >>> 0
}

/** An export whose head somebody else signed. */
function signedByOther(jsonl: string): string {
  const [first = '', ...rest] = jsonl.split('\n')
  const { writer, head } = JSON.parse(first) as { writer: string; head: string }
  const { payload } = Signed.decode(Buffer.from(head, 'base64'))
  const signed = signStatement('audit-head', payload, generateIdentityKey())
  const forged = Buffer.from(Signed.encode(signed).finish()).toString('base64')
  return [JSON.stringify({ writer, head: forged }), ...rest].join('\n')
}

interface Given {
  readonly env?: NodeJS.ProcessEnv
  /** What standard input says. */
  readonly input?: string
  readonly isTerminal?: boolean
}

async function weft(
  line: string,
  { env = {}, input = '', isTerminal = false }: Given = {},
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
    env: { WEFT_CONTROL: control.address, WEFT_IDENTITY: join(folder, 'owner'), ...env },
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
