import assert from 'node:assert/strict'
import { createPrivateKey, createPublicKey } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, test } from 'node:test'
import { stripVTControlCharacters } from 'node:util'
import { OtherClientAttachedError } from '@weft/errors'
import {
  CandidateKind,
  Carrier,
  ConnectionState,
  OpenConnection,
} from '@weft/proto/weftline/common/v1/common.ts'
import {
  type AttachPortRequest,
  ForwarderServiceService,
  Port,
} from '@weft/proto/weftline/forwarder/v1/forwarder.ts'
import { GUARDED_BY_SOCKET, type Handlers, implement, type Server, serve } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import { decodeQR } from 'qr/decode.js'
import { type Io, runCli } from '../src/program.ts'
import { type FakeControl, startFakeControl } from './fake-control.ts'

const ATTACH = 'endpoint attach phone --network blue --host alpha --wireguard'
const HOST_KEY = Buffer.alloc(32, 9)
/** RFC 7748, 6.1: the public key of Alice. */
const ALICE = Buffer.from('8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a', 'hex')
const ALICE_TEXT = ALICE.toString('base64')
const LOW_ORDER_TEXT = Buffer.alloc(32).toString('base64')

const folder = mkdtempSync(join(tmpdir(), 'weft-cli-clients-'))
const socket = join(folder, 'host.sock')
const saved = join(folder, 'phone.conf')
let control: FakeControl
let host: Server
/** What the host was asked to attach. */
let asked: AttachPortRequest[]
let detached: number
/** What the host does instead of attaching. */
let refusal: Error | undefined
let candidates: { address: Buffer; port: number; kind: CandidateKind }[]
let isVoid: boolean

before(async () => {
  control = await startFakeControl()
  await control.writeOwner(join(folder, 'owner'))
  host = await serve({
    listen: [`unix:${socket}`],
    services: [implement(ForwarderServiceService, handlers(), GUARDED_BY_SOCKET)],
    security: { kind: 'socket-mode' },
    log: createLogger({ service: 'fake-host', level: 'silent' }),
  })
})
beforeEach(() => {
  asked = []
  detached = 0
  refusal = undefined
  isVoid = false
  candidates = [
    { address: Buffer.of(203, 0, 113, 7), port: 4500, kind: CandidateKind.CANDIDATE_KIND_OWN },
    {
      address: Buffer.from('20010db8000000000000000000000001', 'hex'),
      port: 61_820,
      kind: CandidateKind.CANDIDATE_KIND_OWN,
    },
  ]
  control.endpoints.clear()
  rmSync(saved, { force: true })
})
after(async () => {
  await host[Symbol.asyncDispose]()
  await control[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

test('a client gets its file on standard output, alone, with a key that nobody else has seen', async () => {
  const { code, stdout, stderr } = await weft(ATTACH)

  assert.equal(code, 0, stderr)
  const [, privateKey = ''] = /^PrivateKey = (.*)$/m.exec(stdout) ?? []
  assert.equal(
    stdout,
    `# blue/phone of tenant default
[Interface]
PrivateKey = ${privateKey}
Address = 10.20.0.7/16, fd20::7/64
MTU = 1320

[Peer]
PublicKey = ${HOST_KEY.toString('base64')}
AllowedIPs = 10.20.0.0/16, fd20::/64
Endpoint = 203.0.113.7:4500
# or: Endpoint = [2001:db8::1]:61820
PersistentKeepalive = 25
`,
  )
  assert.deepEqual(publicKeyOf(privateKey), keysAsked().publicKey)
  assert.equal(keysAsked().presharedKey.length, 0)
  assert.match(stderr, /^endpoint blue\/phone of tenant default attached at alpha as a WireGuard/)
  assert.equal(stderr.includes(privateKey), false)
  assert.doesNotMatch(stderr, /▀/)
  const other = await weft(ATTACH)
  assert.notEqual(/^PrivateKey = (.*)$/m.exec(other.stdout)?.[1], privateKey)
})

test('a client that keeps its private key gives the public one', async () => {
  const { stdout } = await weft(`${ATTACH} --public-key ${ALICE_TEXT} --preshared-key`)

  assert.match(
    stdout,
    new RegExp(`^# PrivateKey = the one that belongs to ${escaped(ALICE_TEXT)}$`, 'm'),
  )
  assert.deepEqual(keysAsked().publicKey, ALICE)
  const [, presharedKey = ''] = /^PresharedKey = (.*)$/m.exec(stdout) ?? []
  assert.deepEqual(Buffer.from(presharedKey, 'base64'), keysAsked().presharedKey)
  assert.equal(keysAsked().presharedKey.length, 32)
})

test('a QR code on standard error holds the file', async () => {
  const { stdout, stderr } = await weft(`${ATTACH} --qr`)

  const withoutComment = stdout.replace(/^# or: .*\n/m, '')
  assert.equal(scan(stderr), withoutComment)
})

test('the QR code is there on a terminal, unless none is wanted or it would be of no use', async () => {
  const isThere = async (words: string) => (await weft(words, true)).stderr.includes('▀')

  assert.equal(await isThere(ATTACH), true)
  assert.equal(await isThere(`${ATTACH} --no-qr`), false)
  assert.equal(await isThere(`${ATTACH} --public-key ${ALICE_TEXT}`), false)
  assert.equal(await isThere(`${ATTACH} -o json`), false)
})

test('a program gets the fields', async () => {
  const fields = JSON.parse((await weft(`${ATTACH} --preshared-key -o json`)).stdout)

  assert.deepEqual(publicKeyOf(fields.privateKey), Buffer.from(fields.publicKey, 'base64'))
  assert.deepEqual(Buffer.from(fields.presharedKey, 'base64'), keysAsked().presharedKey)
  assert.deepEqual(fields.addresses, ['10.20.0.7/16', 'fd20::7/64'])
  assert.deepEqual(fields.allowedIps, ['10.20.0.0/16', 'fd20::/64'])
  assert.equal(fields.hostEndpoint, '203.0.113.7:4500')
  assert.match(fields.file, /^\[Interface\]$/m)
})

test('a file is saved for its owner alone, and takes the place of no other', async () => {
  const { stdout, code } = await weft(`${ATTACH} --save ${saved} -o json`)

  assert.equal(code, 0)
  assert.equal(statSync(saved).mode & 0o777, 0o600)
  const text = readFileSync(saved, 'utf8')
  const [, privateKey = ''] = /^PrivateKey = (.*)$/m.exec(text) ?? []
  assert.deepEqual(publicKeyOf(privateKey), keysAsked().publicKey)
  assert.equal(stdout.includes(privateKey), false)

  asked = []
  const again = await weft(`${ATTACH} --save ${saved}`)
  assert.equal(again.code, 2)
  assert.match(again.stderr, /name a file that is not there yet/)
  assert.deepEqual(asked, [])
  assert.equal(readFileSync(saved, 'utf8'), text)
})

test('an attempt that fails leaves no file and no endpoint', async () => {
  refusal = new OtherClientAttachedError({
    endpoint: 'default/blue/phone',
    key: ALICE_TEXT,
    problem: 'that is another one',
  })
  const { code, stderr } = await weft(`${ATTACH} --save ${saved}`)

  assert.equal(code, 4)
  assert.match(stderr, /weft port detach default\/blue\/phone/)
  assert.equal(existsSync(saved), false)
  assert.equal(control.endpoints.size, 0)
})

test('who names the address of the host needs none that the host knows', async () => {
  candidates = []
  for (const endpoint of ['vpn.example.org:4500', '[2001:db8::5]:1', '198.51.100.1:61820']) {
    const { stdout, stderr } = await weft(`${ATTACH} --endpoint ${endpoint}`)
    assert.match(stdout, new RegExp(`^Endpoint = ${escaped(endpoint)}$`, 'm'), stderr)
    assert(asked.at(-1)?.attachment?.$case === 'wireguard')
    assert.equal(keysAsked().needsCandidate, false)
  }
  await weft(ATTACH)
  assert.equal(keysAsked().needsCandidate, true)
})

test('a host that does not say how it is reached has attached nothing in the end', async () => {
  candidates = []
  const { code, stderr } = await weft(ATTACH)

  assert.equal(code, 2)
  assert.match(stderr, /say --endpoint/)
  assert.equal(detached, 1)
  assert.equal(control.endpoints.size, 0)
})

test('wrong words are refused before anything is done', async () => {
  for (const [words, said] of [
    ['--public-key abc', /44 characters/],
    [`--public-key ${ALICE_TEXT.slice(0, 42)}==`, /32 bytes/],
    [`--public-key ${LOW_ORDER_TEXT}`, /low order/],
    ['--endpoint 203.0.113.7', /ADDRESS:PORT/],
    ['--endpoint 203.0.113.7:0', /ADDRESS:PORT/],
    [`--public-key ${ALICE_TEXT} --qr`, /leave out --qr/],
    ['--netns /run/netns/x', /neither a namespace/],
    [`--save ${join(folder, 'no/such/folder')}`, /not there yet/],
  ] as const) {
    const { code, stderr } = await weft(`${ATTACH} ${words}`)
    assert.equal(code, 2, words)
    assert.match(stderr, said)
  }
  for (const words of ['--preshared-key', '--save x', '--no-qr', '--endpoint a:1']) {
    const { stderr } = await weft(`endpoint attach web --network blue --netns /x ${words}`)
    assert.match(stderr, /say --wireguard as well/, words)
  }
  assert.deepEqual(asked, [])
})

test('clients are told of as what they are', async () => {
  const ports = (await weft('port ls')).stdout
  const key = escaped(ALICE_TEXT)
  assert.match(
    ports,
    new RegExp(
      `phone +up +wireguard ${key}, open at 198\\.51\\.100\\.9:40000, last handshake \\S+ \\S+ ago`,
    ),
  )
  const open = (await weft('connection ls --open')).stdout
  assert.match(open, /alpha +blue\/phone \(wireguard\) +sealed +open +198\.51\.100\.9:40000/)
  const [connection] = JSON.parse((await weft('connection ls --open -o json')).stdout)
  assert.deepEqual(connection.client, { tenant: 'default', network: 'blue', endpoint: 'phone' })
  const [port] = JSON.parse((await weft('port ls -o json')).stdout)
  assert.equal(port.attachment.publicKey, ALICE_TEXT)
  assert.equal(port.attachment.hasPresharedKey, true)
})

test('an endpoint is shown with its client', async () => {
  await weft(ATTACH)
  const { stdout } = await weft('endpoint show blue/phone')

  assert.match(
    stdout,
    new RegExp(`^attached to +wireguard ${escaped(ALICE_TEXT)}, with a preshared key$`, 'm'),
  )
  assert.match(stdout, /^client +open at 198\.51\.100\.9:40000, last handshake/m)
  assert.match(stdout, /^sealed traffic +1\.0 KiB sent to it, 2\.0 KiB received$/m)
})

test('a client whose host has another key by now is told of as cut off', async () => {
  isVoid = true
  assert.match((await weft('port ls')).stdout, /ITS FILE IS VOID.*attach it again/)
})

function keysAsked() {
  const { attachment } = asked.at(-1) ?? {}
  assert(attachment?.$case === 'wireguard')
  return attachment.value
}

function handlers(): Handlers<typeof ForwarderServiceService> {
  const refuse = async (): Promise<never> => {
    throw new Error('nobody asks for this')
  }
  const never = () => ({ [Symbol.asyncIterator]: () => ({ next: refuse }) })
  return {
    async attachPort(request) {
      if (refusal !== undefined) throw refusal
      asked.push(request)
      return {
        port: phone(),
        created: true,
        wireguard: {
          hostPublicKey: HOST_KEY,
          candidates,
          prefixes: [
            { address: Buffer.of(10, 20, 0, 0), lengthBits: 16 },
            { address: Buffer.from('fd200000000000000000000000000000', 'hex'), lengthBits: 64 },
          ],
          mtuBytes: 1320,
        },
      }
    },
    async detachPort() {
      detached++
      return { detached: true, unheard: false }
    },
    async listPorts() {
      return { ports: [phone()] }
    },
    listConnections: refuse,
    async listOpenConnections() {
      const client = { tenant: 'default', network: 'blue', endpoint: 'phone' }
      return { connections: [{ host: '', connection: open(), client }] }
    },
    watchOpenConnections: never,
    getStatus: refuse,
    ping: never,
  }
}

function phone(): Port {
  return Port.create({
    endpointId: 1,
    tenant: 'default',
    network: 'blue',
    endpoint: 'phone',
    attachment: {
      $case: 'wireguard',
      value: { publicKey: ALICE, hasPresharedKey: true, isVoid, connection: open() },
    },
    mac: Buffer.of(2, 0, 0, 0, 0, 7),
    addresses: [Buffer.of(10, 20, 0, 7), Buffer.from('fd200000000000000000000000000007', 'hex')],
    mtuBytes: 1320,
    state: 1,
    counters: {},
  })
}

function open(): OpenConnection {
  return OpenConnection.create({
    endpointId: 1,
    carrier: Carrier.CARRIER_SEALED,
    state: ConnectionState.CONNECTION_STATE_OPEN,
    address: Buffer.of(198, 51, 100, 9),
    port: 40_000,
    sentBytes: 1024n,
    receivedBytes: 2048n,
    lastHandshakeUnixMs: BigInt(Date.now() - 12_000),
  })
}

/** The public key of a private one in base64. */
function publicKeyOf(privateKey: string): Buffer {
  const key = createPrivateKey({
    key: Buffer.concat([
      Buffer.from('302e020100300506032b656e04220420', 'hex'),
      Buffer.from(privateKey, 'base64'),
    ]),
    format: 'der',
    type: 'pkcs8',
  })
  return createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(-32)
}

/** Reads a QR code as a camera sees it on a terminal, whose characters are twice as high as wide. */
function scan(text: string): string {
  const SCALE = 4
  const rows = text
    .split('\n')
    .filter((line) => line.includes('\u001b['))
    .flatMap((line) => {
      const cells = stripVTControlCharacters(line).split('')
      return [cells.map((cell) => '▀█'.includes(cell)), cells.map((cell) => '▄█'.includes(cell))]
    })
  const width = (rows[0]?.length ?? 0) * SCALE
  const data = new Uint8Array(width * rows.length * SCALE * 4)
  for (let at = 0; at < data.length; at += 4) {
    const pixel = at / 4
    const row = rows[Math.floor(pixel / width / SCALE)]
    const isDark = row?.[Math.floor((pixel % width) / SCALE)] ?? false
    data.fill(isDark ? 0 : 255, at, at + 4)
  }
  return decodeQR({ width, height: rows.length * SCALE, data })
}

function escaped(text: string): string {
  return text.replaceAll(/[.+/[\]]/g, '\\$&')
}

async function weft(
  words: string,
  isTerminal = false,
): Promise<{ code: number; stdout: string; stderr: string }> {
  const context = join(folder, 'context.json')
  writeFileSync(context, JSON.stringify({ hosts: { alpha: `unix:${socket}` } }))
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
      WEFT_CONTEXT: context,
      WEFT_CONTROL: control.address,
      WEFT_IDENTITY: join(folder, 'owner'),
      NO_COLOR: '1',
    },
    isTerminal,
    isErrorTerminal: isTerminal,
    isInputTerminal: false,
    readInput: async () => '',
    ask: async () => '',
    columns: 200,
  }
  const argv = words.split(' ')
  const code = await runCli(argv, io)
  return { code, stdout, stderr }
}
