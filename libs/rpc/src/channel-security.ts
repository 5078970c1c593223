import type { Socket } from 'node:net'
import {
  createSecureContext,
  type SecureContext,
  type TLSSocket,
  connect as tlsConnect,
} from 'node:tls'
import { ChannelCredentials, credentials as grpcCredentials } from '@grpc/grpc-js'
import { asWeftError, CertificateRefusedError, type WeftError } from '@weft/errors'
import { formatIdentity, type Peer, type ServiceName, type TlsMaterial } from '@weft/identity'
import { Dials } from './dials.ts'
import { HANDSHAKE_MAX_MS } from './limits.ts'
import { type ClientSecurity, requireUnixSocket } from './security.ts'
import {
  contextOptions,
  onExpiry,
  peerOf,
  refusalOf,
  TLS_OPTIONS,
  type Trust,
  trustOf,
} from './tls.ts'

type TlsSecurity = Exclude<ClientSecurity, { readonly kind: 'socket-mode' }>
type SecureConnector = ReturnType<ChannelCredentials['_createSecureConnector']>
type CallCredentials = ReturnType<SecureConnector['getCallCredentials']>

/** What a channel shows, and what became of its last connection. */
export interface ChannelSecurity {
  readonly credentials: ChannelCredentials
  /** Its tries to connect. */
  readonly dials: Dials
  /** Why the server was refused when it was last connected; undefined if it was not. */
  readonly refusal: WeftError | undefined
}

/** Makes what one channel to `target` connects with. */
export function channelSecurity(security: ClientSecurity, target: string): ChannelSecurity {
  if (security.kind !== 'socket-mode') return new TlsChannel(security)
  requireUnixSocket(target)
  const dials = new Dials()
  return { credentials: ChannelCredentials.createInsecure(), dials, refusal: undefined }
}

/**
 * Opens the TLS connections of one channel. They are opened here and not by gRPC, since the server is known by its identity
 * instead of its name, and since a connection is closed as soon as the server's certificate expires or is revoked: gRPC then
 * connects anew.
 */
class TlsChannel extends ChannelCredentials implements ChannelSecurity {
  readonly dials: Dials = new Dials()
  readonly #security: TlsSecurity
  #context: { readonly of: TlsMaterial | undefined; readonly context: SecureContext } | undefined
  #refusal: WeftError | undefined

  constructor(security: TlsSecurity) {
    super()
    this.#security = security
  }

  get credentials(): ChannelCredentials {
    return this
  }

  get refusal(): WeftError | undefined {
    return this.#refusal
  }

  _isSecure(): boolean {
    return true
  }

  /** Channels never share connections: each is closed with its own channel. */
  _equals(other: ChannelCredentials): boolean {
    return this === other
  }

  _createSecureConnector(
    _target: unknown,
    _options: unknown,
    callCredentials: CallCredentials = grpcCredentials.createEmpty(),
  ): SecureConnector {
    return {
      connect: async (socket) => {
        this.dials.succeeded()
        return { socket: await this.#secure(socket), secure: true }
      },
      waitForReady: async () => undefined,
      getCallCredentials: () => callCredentials,
      destroy: () => undefined,
    }
  }

  async #secure(socket: Socket): Promise<TLSSocket> {
    const trust = this.#trust()
    const subject = `the certificate of ${this.#security.peer}`
    const secured = await handshake(socket, this.#secureContext())
    try {
      const peer = peerOf(secured, trust, subject)
      requireService(peer, this.#security.peer, subject)
      this.#closeInTime(secured, peer, subject)
      this.#refusal = undefined
      if (this.#security.kind === 'mutual-tls') this.#security.onPeer?.(peer)
      return secured
    } catch (error) {
      secured.destroy()
      this.#refusal = asWeftError(error)
      throw error
    }
  }

  #trust(): Trust {
    const security = this.#security
    if (security.kind === 'mutual-tls') return trustOf(security.credentials)
    const { rootPem, domain } = security
    return { domain, rootsPem: rootPem, authoritiesPem: rootPem, isRevoked: () => false }
  }

  #secureContext(): SecureContext {
    const security = this.#security
    const material = security.kind === 'mutual-tls' ? security.credentials.tls : undefined
    if (this.#context === undefined || this.#context.of !== material) {
      const options =
        security.kind === 'mutual-tls'
          ? contextOptions(security.credentials.tls)
          : { ...TLS_OPTIONS, ca: security.rootPem }
      this.#context = { of: material, context: createSecureContext(options) }
    }
    return this.#context.context
  }

  #closeInTime(socket: TLSSocket, peer: Peer, subject: string): void {
    const close = (): void => void socket.destroy()
    const forget = [onExpiry(peer.notAfter, close)]
    if (this.#security.kind === 'mutual-tls') {
      const { credentials } = this.#security
      forget.push(
        credentials.onChange((what) => {
          if (what === 'revoked' && refusalOf(peer, credentials, subject)) close()
        }),
      )
    }
    socket.once('close', () => {
      for (const one of forget) one()
    })
  }
}

/** Resolves when keys are agreed on; nobody has looked at the server's certificate by then. */
async function handshake(socket: Socket, secureContext: SecureContext): Promise<TLSSocket> {
  const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>()
  const secured = tlsConnect(
    {
      socket,
      secureContext,
      ALPNProtocols: ['h2'],
      // `peerOf` decides, and can say why.
      rejectUnauthorized: false,
      checkServerIdentity: () => undefined,
    },
    () => resolve(secured),
  )
  secured.once('error', reject)
  secured.once('close', () => reject(new Error('the server closed the connection during TLS')))
  const timer = setTimeout(
    () => secured.destroy(new Error(`no TLS handshake within ${HANDSHAKE_MAX_MS} ms`)),
    HANDSHAKE_MAX_MS,
  )
  try {
    await promise
  } finally {
    clearTimeout(timer)
  }
  if (secured.alpnProtocol !== 'h2') {
    secured.destroy()
    throw new Error('the server does not speak HTTP/2')
  }
  return secured
}

function requireService({ identity }: Peer, wanted: ServiceName, subject: string): void {
  if (identity.kind === 'service' && identity.id === wanted) return
  throw new CertificateRefusedError({
    reason: 'wrong-peer',
    subject,
    problem: `it is that of ${formatIdentity(identity)}`,
  })
}
