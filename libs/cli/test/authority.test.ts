import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { type Io, runCli } from '../src/program.ts'

const folder = mkdtempSync(join(tmpdir(), 'weft-cli-authority-'))
const domain = join(folder, 'lab.example')

before(async () => {
  assert.equal((await weft(`init --domain lab.example --out ${domain}`)).code, 0)
})
after(() => rmSync(folder, { recursive: true }))

test('the authority is shown with its end, and renewed with the root', async () => {
  const show = `authority show --authority ${domain}/authority`
  const shown = await weft(show)
  assert.match(shown.stdout, /^domain +lab\.example$/m)
  assert.match(shown.stdout, /^fingerprint +sha256:[0-9a-f]{64}$/m)
  const before = readFileSync(`${domain}/authority/intermediate.pem`, 'utf8')

  const renewed = await weft(
    `authority renew --root ${domain}/root --authority ${domain}/authority -o json`,
  )

  assert.equal(renewed.code, 0, renewed.stderr)
  const { notAfter } = JSON.parse(renewed.stdout) as { notAfter: string }
  assert((await weft(show)).stdout.includes(notAfter))
  assert.notEqual(readFileSync(`${domain}/authority/intermediate.pem`, 'utf8'), before)
})

test('what the commands are given wrongly they say with the way out', async () => {
  const renew = 'authority renew --authority'
  const swapped = await weft(`${renew} ${domain}/root --root ${domain}/authority`)
  assert.equal(swapped.code, 2)
  assert.match(swapped.stderr, /give the folder root that weft init made, whole/)
  const missing = await weft(`${renew} ${domain}/authority --root ${folder}/nowhere`)
  assert.equal(missing.code, 2)
  assert.match(missing.stderr, /it is not there/)
  const service = await weft(
    `authority issue nats --authority ${domain}/authority --identity ${domain}/services/config`,
  )
  assert.equal(service.code, 2)
  assert.match(service.stderr, /give the folder services\/nats of the same weft init/)
  const unknown = await weft(`authority issue nobody --authority a --identity b`)
  assert.equal(unknown.code, 2)
  assert.match(unknown.stderr, /config, location-resolver, routing-policy, nats/)
})

test('a service is given certificates by hand', async () => {
  const path = `${domain}/services/nats/credentials.binpb`
  const before = readFileSync(path)

  const issued = await weft(
    `authority issue nats --authority ${domain}/authority --identity ${domain}/services/nats`,
  )

  assert.equal(issued.code, 0, issued.stderr)
  assert.match(issued.stdout, /service nats has certificates until .*weft certificate keep/)
  assert.notDeepEqual(readFileSync(path), before)
})

test('the owner is given a certificate by hand', async () => {
  const path = `${domain}/owner/credentials.binpb`
  const before = readFileSync(path)

  const issued = await weft(
    `authority issue user --authority ${domain}/authority --identity ${domain}/owner`,
  )

  assert.equal(issued.code, 0, issued.stderr)
  assert.match(issued.stdout, /user 1 has a certificate until/)
  assert.notDeepEqual(readFileSync(path), before)
})

async function weft(line: string): Promise<{ code: number; stdout: string; stderr: string }> {
  let stdout = ''
  let stderr = ''
  const io: Io = {
    stdout: (text) => {
      stdout += text
    },
    stderr: (text) => {
      stderr += text
    },
    env: {},
    isTerminal: false,
    isErrorTerminal: false,
    isInputTerminal: false,
    readInput: async () => '',
    ask: async () => '',
    columns: 100,
  }
  const code = await runCli(line.split(' '), io)
  return { code, stdout, stderr }
}
