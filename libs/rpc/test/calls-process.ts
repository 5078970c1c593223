// A client or a server of the bench of calls, in a process of its own: forked with `client` or `server` and one of `KINDS`.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import {
  ChannelCredentials,
  Client as GrpcClient,
  Server as GrpcServer,
  type handleUnaryCall,
  ServerCredentials,
} from '@grpc/grpc-js'
import { authoriser, RecordsWorld, routingAccess } from '@weft/access'
import {
  type Credentials,
  type Identity,
  identityKeyFromPem,
  type TlsMaterial,
} from '@weft/identity'
import { Host, Network } from '@weft/proto/weftline/config/v1/records.ts'
import {
  DecideRequest,
  DecideResponse,
  RoutingServiceService,
} from '@weft/proto/weftline/routing/v1/routing.ts'
import { createLogger } from '@weft/telemetry'
import { testDomain } from '@weft/testing'
import {
  type ClientSecurity,
  connect,
  type Handlers,
  implement,
  type ServerSecurity,
  serve,
} from '../src/index.ts'
import { CHANNEL_OPTIONS } from '../src/limits.ts'

/**
 * `guarded`: ours, mutual TLS and a rule that looks at the request, over TCP. `bare`: what grpc-js does by itself, over TCP.
 * `by-socket`: ours without either, over a unix socket, which tells what of the difference is ours and what is TLS.
 */
const KINDS = ['guarded', 'bare', 'by-socket'] as const
type Kind = (typeof KINDS)[number]

/** What the client process is asked. */
export interface Burst {
  readonly inFlight: number
  readonly durationMs: number
}

/** What it answers to each. */
export interface BurstDone {
  readonly callsPerSecond: number
}

/** What a member is known by, as it goes from one process to the other. */
interface MemberTexts {
  readonly identity: Identity
  readonly tls: Omit<TlsMaterial, 'notAfter'> & { readonly notAfterUnixMs: number }
  readonly directoryKey: string
}

const TENANT = 1
const NETWORK = 2
const HOST = 3
const REQUEST = DecideRequest.create({
  connections: [
    { networkId: NETWORK, sourceEndpointId: 11, targetEndpointId: 12, ipProtocol: 6, mechanism: 1 },
  ],
})
const RESPONSE = DecideResponse.create({
  decisions: [{ protocol: 'default', rule: 'everything-else', dependsOn: [] }],
  revision: 17n,
  horizonMs: 60_000n,
})

const [, , side, kindText] = process.argv
const kind = KINDS.find((known) => known === kindText)
if (kind === undefined) throw new RangeError(`${kindText} is none of ${KINDS.join(', ')}`)
// Whoever forked it is gone: so is the bench.
process.once('disconnect', () => process.exit())
if (side === 'server') await server(kind)
else await client(kind)

async function client(kind: Kind): Promise<void> {
  const domain = testDomain()
  const member = domain.credentials({ kind: 'host', id: HOST })
  const service = domain.credentials({ kind: 'service', id: 'routing-policy' })
  const child = fork(fileURLToPath(import.meta.url), ['server', kind])
  child.send(textsOf(service))
  const [address] = (await once(child, 'message')) as [string]
  const call = caller(kind, address, member)
  const answer = async (burst: Burst): Promise<void> => {
    process.send?.({ callsPerSecond: await callFor(call, burst) } satisfies BurstDone)
  }
  process.on('message', (burst: Burst) => void answer(burst))
  process.send?.('ready')
}

/** Keeps as many calls under way as it is told, for as long as it is told. */
async function callFor(
  call: () => Promise<DecideResponse>,
  { inFlight, durationMs }: Burst,
): Promise<number> {
  const startedAt = performance.now()
  const endAt = startedAt + durationMs
  let count = 0
  const one = async (): Promise<void> => {
    while (performance.now() < endAt) {
      const { decisions } = await call()
      if (decisions.length !== 1) throw new Error('the answer is not that of the server')
      count++
    }
  }
  await Promise.all(Array.from({ length: inFlight }, one))
  return (count * 1000) / (performance.now() - startedAt)
}

function caller(kind: Kind, address: string, member: Credentials): () => Promise<DecideResponse> {
  if (kind === 'bare') return bareCaller(address)
  const security: ClientSecurity =
    kind === 'guarded'
      ? { kind: 'mutual-tls', credentials: member, peer: 'routing-policy' }
      : { kind: 'socket-mode' }
  const routing = connect(address, RoutingServiceService, { security })
  return () => routing.decide(REQUEST)
}

/** With a deadline, as every call of ours has one. */
function bareCaller(address: string): () => Promise<DecideResponse> {
  const { path, requestSerialize, responseDeserialize } = RoutingServiceService.decide
  const routing = new GrpcClient(address, ChannelCredentials.createInsecure(), CHANNEL_OPTIONS)
  return () => {
    const { promise, resolve, reject } = Promise.withResolvers<DecideResponse>()
    routing.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      REQUEST,
      { deadline: Date.now() + 5000 },
      (error, response) => (response ? resolve(response) : reject(error)),
    )
    return promise
  }
}

async function server(kind: Kind): Promise<void> {
  const [texts] = (await once(process, 'message')) as [MemberTexts]
  process.send?.(kind === 'bare' ? await serveBare() : await serveOurs(kind, texts))
}

async function serveBare(): Promise<string> {
  const grpc = new GrpcServer(CHANNEL_OPTIONS)
  const decide: handleUnaryCall<DecideRequest, DecideResponse> = (_call, answer) =>
    answer(null, RESPONSE)
  const refuse: handleUnaryCall<unknown, never> = (call) => call.emit('error', new Error('unused'))
  grpc.addService(RoutingServiceService, { decide, listRules: refuse })
  const { promise, resolve, reject } = Promise.withResolvers<number>()
  grpc.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) =>
    error ? reject(error) : resolve(port),
  )
  return `127.0.0.1:${await promise}`
}

async function serveOurs(kind: Exclude<Kind, 'bare'>, texts: MemberTexts): Promise<string> {
  const handlers: Handlers<typeof RoutingServiceService> = {
    decide: async () => RESPONSE,
    listRules: async () => ({ rules: [], revision: 0n }),
  }
  const security: ServerSecurity =
    kind === 'guarded'
      ? {
          kind: 'mutual-tls',
          credentials: credentialsOf(texts),
          authorise: authoriser({ world: world() }),
        }
      : { kind: 'socket-mode' }
  const socket = join(tmpdir(), `weft-calls-${process.pid}.sock`)
  process.once('exit', () => rmSync(socket, { force: true }))
  const { addresses } = await serve({
    listen: [kind === 'guarded' ? '127.0.0.1:0' : `unix:${socket}`],
    services: [implement(RoutingServiceService, handlers, routingAccess)],
    security,
    log: createLogger({ service: 'bench', level: 'silent' }),
  })
  return addresses[0] ?? ''
}

/** The caller may carry one tenant, and asks about a network of it. */
function world(): RecordsWorld {
  const known = new RecordsWorld()
  const network = Network.create({ id: NETWORK, tenantId: TENANT })
  known.put({ kind: { $case: 'network', value: network } })
  known.put({ kind: { $case: 'host', value: Host.create({ id: HOST, tenantIds: [TENANT] }) } })
  return known
}

function textsOf({ identity, tls, directoryKey }: Credentials): MemberTexts {
  const { notAfter, ...pems } = tls
  return {
    identity,
    tls: { ...pems, notAfterUnixMs: notAfter.getTime() },
    directoryKey: Buffer.from(directoryKey).toString('hex'),
  }
}

function credentialsOf({ identity, tls, directoryKey }: MemberTexts): Credentials {
  const { notAfterUnixMs, ...pems } = tls
  return {
    identity,
    tls: { ...pems, notAfter: new Date(notAfterUnixMs) },
    bus: undefined,
    identityKey: identityKeyFromPem(tls.keyPem),
    directoryKey: Buffer.from(directoryKey, 'hex'),
    isRevoked: () => false,
    onChange: () => () => undefined,
  }
}
