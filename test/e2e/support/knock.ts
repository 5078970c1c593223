/**
 * Knocks at a server in all ways in which somebody does who does not belong, and prints a line of JSON for each: what was
 * shown, and what came back.
 * * The argument is a file with a `KnockPlan` in JSON.
 */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import {
  type ClientHttp2Session,
  connect as connectHttp2,
  type IncomingHttpHeaders,
  type IncomingHttpStatusHeader,
} from 'node:http2'
import { connect as connectTcp, type Socket } from 'node:net'
import { type ConnectionOptions, connect as connectTls } from 'node:tls'

/** What somebody has to show: PEM. */
export interface Shown {
  readonly name: string
  readonly chainPem?: string
  readonly keyPem?: string
  readonly tlsVersion?: 'TLSv1.2' | 'TLSv1.3'
  /** No TLS at all. */
  readonly isPlain?: boolean
}

export interface KnockPlan {
  readonly shown: readonly Shown[]
  /** `HOST:PORT` of servers that speak gRPC. */
  readonly grpc: readonly string[]
  /** Paths of rpcs. */
  readonly methods: readonly string[]
  /** `HOST:PORT` of servers that speak NATS. */
  readonly nats: readonly string[]
  /** Servers that get bytes without sense. */
  readonly nonsense: readonly string[]
}

export interface Knocked {
  readonly at: string
  readonly shown: string
  readonly method?: string
  /** `grpc N`, the first words of what NATS says, or why there was no answer. */
  readonly answer: string
  /** Bytes that the server sent of its own, behind TLS if there is any. */
  readonly bytes: number
}

const ANSWER_TIMEOUT_MS = 2000
const NONSENSE_BYTES = 64 * 1024

const plan: KnockPlan = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8'))
for (const shown of plan.shown) {
  for (const target of plan.grpc) {
    for (const method of plan.methods) tell(await callAt(target, shown, method))
  }
  for (const target of plan.nats) tell(await logIn(target, shown))
}
for (const target of plan.nonsense) tell(await talkNonsense(target))

function tell(knocked: Knocked): void {
  console.log(JSON.stringify(knocked))
}

function tlsOptions({ chainPem, keyPem, tlsVersion }: Shown): ConnectionOptions {
  return {
    // A stranger asks nobody who the server is.
    rejectUnauthorized: false,
    ...(chainPem !== undefined && { cert: chainPem }),
    ...(keyPem !== undefined && { key: keyPem }),
    ...(tlsVersion && { minVersion: tlsVersion, maxVersion: tlsVersion }),
  }
}

/** Calls an rpc with an empty message over a connection of its own. */
async function callAt(at: string, shown: Shown, method: string): Promise<Knocked> {
  const session = connectHttp2(`${shown.isPlain ? 'http' : 'https'}://${at}`, {
    ...tlsOptions(shown),
    ALPNProtocols: ['h2'],
  })
  const broken = Promise.withResolvers<string>()
  session.on('error', (error: NodeJS.ErrnoException) => broken.resolve(error.code ?? error.message))
  session.on('close', () => broken.resolve('closed'))
  const answer = await Promise.race([call(session, method), broken.promise])
  session.destroy()
  return { at, shown: shown.name, method, answer, bytes: 0 }
}

async function call(session: ClientHttp2Session, method: string): Promise<string> {
  const request = session.request({
    ':method': 'POST',
    ':path': method,
    'content-type': 'application/grpc',
    te: 'trailers',
  })
  const { promise, resolve } = Promise.withResolvers<string>()
  const timer = setTimeout(() => resolve('silence'), ANSWER_TIMEOUT_MS)
  const look = (headers: IncomingHttpHeaders & IncomingHttpStatusHeader): void => {
    const grpc = headers['grpc-status']
    const http = headers[':status']
    if (grpc !== undefined) resolve(`grpc ${String(grpc)}`)
    else if (http !== undefined && http !== 200) resolve(`http ${http}`)
  }
  request.on('response', look).on('trailers', look)
  request.on('data', () => resolve('data'))
  request.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
  request.on('close', () => resolve('closed'))
  // One message of no bytes, not compressed.
  request.end(Buffer.alloc(5))
  const answer = await promise
  clearTimeout(timer)
  return answer
}

/** Says to a server of the bus what a client says that has nothing to log in with. */
async function logIn(at: string, shown: Shown): Promise<Knocked> {
  return await converse(at, shown, 'CONNECT {"verbose":true,"protocol":1}\r\nPING\r\nSUB > 1\r\n')
}

async function talkNonsense(at: string): Promise<Knocked> {
  const bytes = Buffer.alloc(NONSENSE_BYTES, 'weft\0\xff\n', 'latin1')
  return await converse(at, { name: 'nonsense', isPlain: true }, bytes)
}

/** Sends something, and collects what comes until the server closes or is silent. */
async function converse(at: string, shown: Shown, say: string | Buffer): Promise<Knocked> {
  const [host = '', port = ''] = at.split(':')
  const place = { host, port: Number(port) }
  const socket: Socket = shown.isPlain
    ? connectTcp(place)
    : connectTls({ ...place, ...tlsOptions(shown) })
  let received = ''
  let failure = ''
  socket.on('data', (data: Buffer) => {
    received += data.toString('latin1')
  })
  socket.on('error', (error: NodeJS.ErrnoException) => {
    failure ||= error.code ?? error.message
  })
  const closed = once(socket, 'close').catch(() => undefined)
  socket.write(say)
  const timer = setTimeout(() => {
    failure ||= 'silence'
    socket.destroy()
  }, ANSWER_TIMEOUT_MS)
  await closed
  clearTimeout(timer)
  const refusal = /-ERR '([^']*)'/.exec(received)?.[1]
  const isIn = received.includes('PONG') || received.includes('+OK')
  const answer = isIn ? 'let in' : (refusal ?? (failure || 'closed'))
  return { at, shown: shown.name, answer, bytes: received.length }
}
