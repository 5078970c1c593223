import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import {
  Carrier,
  Cipher,
  ConnectionState,
  Mechanism,
  Offload,
  OpenConnection,
} from '@weft/proto/weftline/common/v1/common.ts'
import {
  Connection,
  ForwarderServiceService,
  GetStatusResponse,
} from '@weft/proto/weftline/forwarder/v1/forwarder.ts'
import { GUARDED_BY_SOCKET, type Handlers, implement, type Server, serve } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import { type Io, runCli } from '../src/program.ts'
import { type FakeControl, startFakeControl } from './fake-control.ts'

const folder = mkdtempSync(join(tmpdir(), 'weft-cli-connections-'))
const socket = join(folder, 'host.sock')
let control: FakeControl
let host: Server
let status: GetStatusResponse
let open: OpenConnection[]

before(async () => {
  control = await startFakeControl()
  await control.writeOwner(join(folder, 'owner'))
  status = sealingStatus()
  open = [sealedTo(2)]
  host = await serve({
    listen: [`unix:${socket}`],
    services: [implement(ForwarderServiceService, handlers(), GUARDED_BY_SOCKET)],
    security: { kind: 'socket-mode' },
    log: createLogger({ service: 'fake-host', level: 'silent' }),
  })
})
after(async () => {
  await host[Symbol.asyncDispose]()
  await control[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

test('connections are listed with how the hosts in between are', async () => {
  const { stdout } = await weft('connection ls')

  assert.match(stdout, /web +api +host2 +direct +sealed +open +shortest-path/)
  assert.match(
    stdout,
    /host2 +sealed +open +\[2001:db8::2\]:61820 +0\.25 ms +0\.01 ms +0\.50 % +1452 +1\.0 KiB +3\.0 MiB +\S+ h +aes-256-gcm +udp-gso udp-gro/,
  )
})

test('a program gets each pair with the connection that it takes, or the open ones alone', async () => {
  const [pair] = JSON.parse((await weft('connection ls -o json')).stdout)
  assert.equal(pair.source, 'web')
  assert.equal(pair.open.state, 'open')
  assert.equal(pair.open.rttUs, 250)

  const [connection] = JSON.parse((await weft('connection ls --open -o json')).stdout)
  assert.deepEqual(connection.endpoint, { address: '2001:db8::2', port: 61_820 })
  assert.equal(connection.carrier, 'sealed')
  assert.equal(connection.onHost, 'alpha')
})

test('a watch looks again and again, and clears a terminal before', async () => {
  const { stdout } = await weft('connection ls --open --watch --times 2', true)

  assert.equal(stdout.split('\u001b[H\u001b[J').length, 3)
  const plain = await weft('connection ls --open --watch --times 2')
  assert.equal(plain.stdout.split('CARRIER').length, 3)
  assert.equal(plain.stdout.includes('\u001b'), false)
})

test('what does not connect says so, and why', async () => {
  open = [
    OpenConnection.create({
      hostId: 3,
      carrier: Carrier.CARRIER_SEALED,
      state: ConnectionState.CONNECTION_STATE_UNREACHABLE,
      reason: 'no-candidate',
    }),
  ]
  const { stdout } = await weft('connection ls --open')
  open = [sealedTo(2)]

  assert.match(stdout, /host3 +sealed +unreachable \(no-candidate\) +- +- +- +- +- +0 B +0 B +- +-/)
  assert.match(
    stdout,
    /^alpha to host3: unreachable directly \(no-candidate\): no address of it is known/m,
  )
})

test('status counts connections, and names what sealing falls back to', async () => {
  const { stdout } = await weft('status')

  assert.match(stdout, /connections: 3 sealed open, 1 vxlan open/)
  assert.match(stdout, /sealing +reduced +without udp-gro \(a probe failed\)/)

  const fallbacks = { sent_singly: 7n, halved: 0n }
  status = GetStatusResponse.create({ ...status, sealing: { ...sealing(), fallbacks } })
  assert.match(
    (await weft('status')).stdout,
    /sealing +reduced +without udp-gro \(a probe failed\); not the fastest way: sent_singly 7$/m,
  )
  status = GetStatusResponse.create({
    ...status,
    sealing: { ...sealing(), offloads: [], fallbacks },
  })
  assert.match((await weft('status')).stdout, /sealing +ok +not the fastest way: sent_singly 7$/m)
  status = GetStatusResponse.create({ ...status, sealing: { ...sealing(), keyLogged: true } })
  assert.match((await weft('status')).stdout, /sealing +unsafe +KEYS ARE LOGGED/)
  const problem = 'the shuttle has no sealed transport'
  status = GetStatusResponse.create({
    ...status,
    sealing: { ...sealing(), available: false, problem },
  })
  assert.match(
    (await weft('status')).stdout,
    /sealing +gone +the shuttle has no sealed transport; nothing is sent plain instead/,
  )
  status = sealingStatus()
})

test('a host is shown with what it reported of its connections', async () => {
  const { stdout } = await weft('host show alpha')

  assert.match(stdout, /^capabilities +carrier-sealed$/m)
  assert.match(stdout, /^sealed at +port 61820$/m)
  assert.match(stdout, /^seen at +198\.51\.100\.7:4000$/m)
  assert.match(
    stdout,
    /^to beta +sealed unreachable \(no-answer\), 0 B sent, 0 B received, said 2\.0 s ago$/m,
  )
  assert.match(
    stdout,
    /^sealing +on UDP port 61820, offers aes-256-gcm; measured aes-256-gcm at 4\.0 GiB\/s; without udp-gro \(a probe failed\); dropped: replayed 3, forged 1; refused: wrong_mac 2$/m,
  )
})

test('a network says what it demands of links', async () => {
  assert.equal(
    (await weft('network create vault --prefix 10.30.0.0/16 --encryption required')).code,
    0,
  )
  assert.match((await weft('network ls')).stdout, /vault +7 +10\.30\.0\.0\/16 +1320 +required/)
  assert.match((await weft('network show vault')).stdout, /^encryption +required$/m)
  const wrong = await weft('network create other --prefix 10.31.0.0/16 --encryption none')
  assert.equal(wrong.code, 2)
})

test('where a host is sealed to has to be a place', async () => {
  for (const option of [
    '--candidate 203.0.113.7',
    '--candidate [203.0.113.7:1',
    '--sealed-port 0',
  ]) {
    const { code } = await weft(`host set alpha ${option}`)
    assert.equal(code, 2, option)
  }
  const nothing = await weft('host set alpha')
  assert.equal(nothing.code, 2)
  assert.match(nothing.stderr, /say --address, --sealed-port or --candidate/)
})

function handlers(): Handlers<typeof ForwarderServiceService> {
  const refuse = async (): Promise<never> => {
    throw new Error('nobody asks for this')
  }
  const never = () => ({ [Symbol.asyncIterator]: () => ({ next: refuse }) })
  return {
    attachPort: refuse,
    detachPort: refuse,
    listPorts: refuse,
    async listConnections() {
      return {
        connections: [
          Connection.create({
            network: 'blue',
            source: 'web',
            target: 'api',
            targetHost: 'host2',
            mechanism: Mechanism.MECHANISM_DIRECT,
            carrier: Carrier.CARRIER_SEALED,
            protocol: 'shortest-path',
          }),
        ],
      }
    },
    async listOpenConnections() {
      return {
        connections: open.map((connection) => ({
          host: `host${connection.hostId}`,
          connection,
          client: undefined,
        })),
      }
    },
    watchOpenConnections: never,
    async getStatus() {
      return status
    },
    ping: never,
  }
}

function sealedTo(hostId: number): OpenConnection {
  return OpenConnection.create({
    hostId,
    carrier: Carrier.CARRIER_SEALED,
    state: ConnectionState.CONNECTION_STATE_OPEN,
    address: Buffer.from('20010db8000000000000000000000002', 'hex'),
    port: 61_820,
    rttUs: 250n,
    jitterUs: 12n,
    lossPpm: 5_000,
    pathMtuBytes: 1_452,
    sentBytes: 1_024n,
    receivedBytes: 3_145_728n,
    openSinceUnixMs: BigInt(Date.now() - 7_200_000),
    cipher: Cipher.CIPHER_AES_256_GCM,
    offloads: [Offload.OFFLOAD_UDP_GSO, Offload.OFFLOAD_UDP_GRO],
  })
}

function sealing(): NonNullable<GetStatusResponse['sealing']> {
  return {
    available: true,
    problem: '',
    listenPort: 61_820,
    cipher: Cipher.CIPHER_AES_256_GCM,
    speeds: [{ cipher: Cipher.CIPHER_AES_256_GCM, bytesPerSecond: 4_294_967_296n }],
    offloads: [
      { offload: Offload.OFFLOAD_UDP_GSO, inUse: true, reason: '' },
      { offload: Offload.OFFLOAD_UDP_GRO, inUse: false, reason: 'a probe failed' },
    ],
    keyLogged: false,
    observed: [],
    drops: { replayed: 3n, forged: 1n },
    fallbacks: {},
    refusals: { wrong_mac: 2n },
  }
}

function sealingStatus(): GetStatusResponse {
  const cache = {
    entries: 0,
    revision: 0n,
    oldestAgeMs: 0n,
    horizonMs: 0n,
    hits: 0n,
    misses: 0n,
    staleAnswers: 0n,
  }
  return GetStatusResponse.create({
    hostId: 1,
    host: 'alpha',
    resolutions: cache,
    decisions: cache,
    sealing: sealing(),
    openConnections: { 'vxlan open': 1, 'sealed open': 3 },
  })
}

async function weft(line: string, isTerminal = false) {
  let [stdout, stderr] = ['', '']
  const context = join(folder, 'context.json')
  writeFileSync(context, JSON.stringify({ hosts: { alpha: `unix:${socket}` } }))
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
    columns: 100,
    isInputTerminal: isTerminal,
    readInput: async () => '',
    ask: async () => '',
  }
  const code = await runCli(line.split(' '), io)
  return { code, stdout, stderr }
}
