import { once } from 'node:events'
import { chmod, chown, lstat, rm } from 'node:fs/promises'
import { performServerHandshake, type ServerHttp2Stream } from 'node:http2'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer, type TLSSocket } from 'node:tls'
import { asWeftError, CertificateRefusedError, PortInUseError, type WeftError } from '@weft/errors'
import type { TlsMaterial } from '@weft/identity'
import { counter, type Logger, SparseLog } from '@weft/telemetry'
import type { Connections } from './connections.ts'
import { trailersOf } from './errors.ts'
import {
  CONNECTIONS_MAX,
  HANDSHAKE_MAX_MS,
  REFUSAL_MS,
  REFUSALS_AT_ONCE_MAX,
  STRANGERS_MAX,
} from './limits.ts'
import { requireUnixSocket, type ServerSecurity } from './security.ts'
import { Strangers } from './strangers.ts'
import { contextOptions, OF_CALLER, peerOf, trustOf } from './tls.ts'

export interface ListenOptions {
  readonly security: ServerSecurity
  readonly connections: Connections
  /** Takes a connection that was let in. */
  readonly onConnection: (socket: Socket) => void
  readonly log: Logger
  /** Mode of unix sockets; 0o660 by default. */
  readonly socketMode?: number | undefined
  /** Group id of unix sockets; the process's own by default. */
  readonly socketGroup?: number | undefined
}

export interface Listener extends AsyncDisposable {
  /** Where it listens, with the port that was chosen for port 0. */
  readonly address: string
  /** Takes no more connections; resolves when those that are there have ended. */
  close(): Promise<void>
}

const refusals = counter<'reason'>({
  name: 'weft_rpc_server_connections_refused_total',
  help: 'Connections that were refused, by reason',
  labels: ['reason'],
})

/**
 * Listens on an address (`host:port`, `[v6]:port` or `unix:/path`) and lets in whom the security allows. Throws
 * `PortInUseError`. Disposing closes all connections.
 */
export async function listen(address: string, options: ListenOptions): Promise<Listener> {
  const path = address.startsWith('unix:') ? address.slice('unix:'.length) : undefined
  if (path !== undefined) await removeStaleSocket(path)
  const gate = openGate(address, options)
  const { server } = gate
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.setNoDelay()
    // What goes wrong on a socket ends it, and that is all there is to do.
    socket.on('error', () => undefined)
    socket.once('close', () => sockets.delete(socket))
  })
  const closed = Promise.withResolvers<void>()
  server.once('close', () => closed.resolve())
  try {
    server.listen(path === undefined ? placeOf(address) : { path })
    await once(server, 'listening')
    if (path !== undefined) {
      await chmod(path, options.socketMode ?? 0o660)
      if (options.socketGroup !== undefined) await chown(path, -1, options.socketGroup)
    }
  } catch (error) {
    server.close()
    gate.stop()
    const isTaken = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE'
    throw isTaken ? new PortInUseError({ address }) : error
  }
  const bound = server.address()
  const port = bound !== null && typeof bound === 'object' ? bound.port : undefined
  const close = (): Promise<void> => {
    gate.stop()
    if (server.listening) server.close()
    return closed.promise
  }
  return {
    address: port === undefined ? address : address.replace(/:[0-9]+$/, `:${port}`),
    close,
    async [Symbol.asyncDispose]() {
      const ended = close()
      for (const socket of sockets) socket.destroy()
      await ended
    },
  }
}

interface Gate {
  readonly server: Server
  readonly stop: () => void
}

/** The server socket of a kind of security; `onConnection` only ever sees who may come in. */
function openGate(address: string, options: ListenOptions): Gate {
  const { security, connections, onConnection } = options
  switch (security.kind) {
    case 'socket-mode': {
      requireUnixSocket(address)
      const server = createServer((socket) => {
        connections.addFamily(socket)
        onConnection(socket)
      })
      server.maxConnections = CONNECTIONS_MAX
      return { server, stop: () => undefined }
    }
    case 'server-tls': {
      // With its root, which a caller that has no certificate yet knows by its fingerprint.
      return tlsGate(options, security, (socket) => {
        connections.addUnknown(socket)
        onConnection(socket)
      })
    }
    case 'mutual-tls':
      return tlsGate(options, security, (socket, { strangers, refuse }) => {
        try {
          const peer = peerOf(socket, trustOf(security.credentials), OF_CALLER)
          strangers.known(socket)
          connections.addKnown(socket, peer)
        } catch (error) {
          return refuse(socket, error)
        }
        onConnection(socket)
      })
  }
}

interface Stage {
  readonly strangers: Strangers
  readonly refuse: (socket: TLSSocket, error: unknown) => void
}

function tlsGate(
  { log }: ListenOptions,
  { kind, credentials }: Exclude<ServerSecurity, { readonly kind: 'socket-mode' }>,
  onSecure: (socket: TLSSocket, stage: Stage) => void,
): Gate {
  const isMutual = kind === 'mutual-tls'
  const material = (tls: TlsMaterial) =>
    contextOptions(isMutual ? tls : { ...tls, chainPem: `${tls.chainPem}\n${tls.rootsPem}` })
  const server = createTlsServer({
    ...material(credentials.tls),
    ALPNProtocols: ['h2'],
    handshakeTimeout: HANDSHAKE_MAX_MS,
    requestCert: isMutual,
    // Who is not authorised is refused by `peerOf`, and then is told why: TLS 1.3 alone would only hang up on it.
    rejectUnauthorized: false,
  })
  // The last bound, also for unix sockets, on which there are no sources.
  server.maxConnections = CONNECTIONS_MAX + STRANGERS_MAX
  const note = refusalNotes(log)
  const stage = { strangers: new Strangers(), refuse: refuser(note) }
  server.on('connection', (socket: Socket) => {
    const isTcp = socket.localPort !== undefined
    if (!isTcp || stage.strangers.add(socket)) return
    note('crowded', socket, 'its source has too many connections, or all have')
    socket.destroy()
  })
  server.on('secureConnection', (socket) => {
    socket.on('error', () => undefined)
    if (socket.alpnProtocol === 'h2') onSecure(socket, stage)
    else socket.destroy()
  })
  server.on('tlsClientError', (error, socket) => {
    note(handshakeFailure(error), socket, handshakeProblem(error))
    // Node leaves a handshake that took too long open.
    socket.destroy()
  })
  const stop = credentials.onChange((what) => {
    // Open connections keep what they were opened with.
    if (what === 'renewed') server.setSecureContext(material(credentials.tls))
  })
  return { server, stop }
}

type NoteRefusal = (reason: string, socket: Socket, problem: string) => void

/** Counts who is refused, each reason for itself, and warns of each once in a second. */
function refusalNotes(log: Logger): NoteRefusal {
  const warnings = new SparseLog(log)
  return (reason, { remoteAddress }, problem) => {
    refusals.add(1, { reason })
    warnings.warn(reason, { reason, peer: remoteAddress, problem }, 'a connection was refused')
  }
}

/** The code of Node or OpenSSL; OpenSSL's own words name its source files. */
function handshakeProblem({ code, message }: NodeJS.ErrnoException): string {
  return code ?? message
}

/** Why there was no handshake, by the codes of Node and OpenSSL. */
function handshakeFailure(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case 'ERR_TLS_HANDSHAKE_TIMEOUT':
      return 'handshake-too-slow'
    case 'ECONNRESET':
      return 'handshake-left'
    case 'ERR_SSL_UNSUPPORTED_PROTOCOL':
      return 'tls-too-old'
    case 'ERR_SSL_HTTP_REQUEST':
    case 'ERR_SSL_HTTPS_PROXY_REQUEST':
    case 'ERR_SSL_WRONG_VERSION_NUMBER':
      return 'not-tls'
    case 'ERR_SSL_NO_APPLICATION_PROTOCOL':
      return 'not-http2'
    default:
      return 'handshake'
  }
}

/** Answers whatever a refused caller asks with the reason, without reading more of it than where the question goes. */
function refuser(note: NoteRefusal): (socket: TLSSocket, error: unknown) => void {
  let count = 0
  return (socket, error) => {
    const reason = asWeftError(error)
    const word = reason instanceof CertificateRefusedError ? reason.reason : reason.code
    note(word, socket, reason.message)
    if (count >= REFUSALS_AT_ONCE_MAX) {
      socket.destroy()
      return
    }
    count++
    const timer = setTimeout(() => socket.destroy(), REFUSAL_MS)
    socket.once('close', () => {
      clearTimeout(timer)
      count--
    })
    answerWith(socket, reason)
  }
}

function answerWith(socket: TLSSocket, reason: WeftError): void {
  const session = performServerHandshake(socket, { settings: { maxConcurrentStreams: 1 } })
  session.on('error', () => undefined)
  session.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('error', () => undefined)
    stream.respond(trailersOf(reason), { endStream: true })
    session.close()
  })
}

/** `127.0.0.1:7001` or `[::1]:7001`. */
function placeOf(address: string): { readonly host: string; readonly port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):([0-9]{1,5})$/.exec(address)
  if (!match) throw new TypeError(`${address} is neither host:port, [v6]:port nor unix:/path`)
  return { host: match[1] ?? match[2] ?? '', port: Number(match[3]) }
}

/** Removes a socket that a process left which was killed; throws `PortInUseError` if somebody answers on it. */
async function removeStaleSocket(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined)
  if (!found) return
  if (!found.isSocket()) throw new PortInUseError({ address: `unix:${path}` })
  const socket = createConnection(path)
  const isAnswered = await once(socket, 'connect').then(
    () => true,
    () => false,
  )
  socket.destroy()
  if (isAnswered) throw new PortInUseError({ address: `unix:${path}` })
  await rm(path, { force: true })
}
