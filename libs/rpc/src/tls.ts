import { constants, X509Certificate } from 'node:crypto'
import type { SecureContextOptions, TLSSocket } from 'node:tls'
import { type CertificateRefusal, CertificateRefusedError } from '@weft/errors'
import {
  type Credentials,
  dersOfPem,
  type Peer,
  readMember,
  shownChain,
  type TlsMaterial,
  verifyChain,
} from '@weft/identity'

/**
 * TLS 1.3 and nothing older. AES-128 first: it is the fastest of three equals on machines with AES instructions. Sessions are
 * never resumed: each connection shows its certificate anew.
 */
export const TLS_OPTIONS: SecureContextOptions = {
  minVersion: 'TLSv1.3',
  ciphers: 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256',
  secureOptions: constants.SSL_OP_NO_TICKET,
}

/** Key, certificates and roots belong together and are only ever replaced together. */
export function contextOptions({ keyPem, chainPem, rootsPem }: TlsMaterial): SecureContextOptions {
  return { ...TLS_OPTIONS, key: keyPem, cert: chainPem, ca: rootsPem }
}

/** Those who vouch for a peer, and those who are refused in spite of it. */
export interface Trust {
  readonly domain: string
  readonly rootsPem: string
  /** Those above one's own certificate; they may be above that of the peer as well. */
  readonly authoritiesPem: string
  isRevoked(publicKey: Uint8Array): boolean
}

export function trustOf(credentials: Credentials): Trust {
  return {
    domain: credentials.identity.domain,
    rootsPem: credentials.tls.rootsPem,
    authoritiesPem: credentials.tls.chainPem,
    isRevoked: (publicKey) => credentials.isRevoked(publicKey),
  }
}

/** Whose certificate is refused, as the caller is told. */
export const OF_CALLER = 'the certificate of the caller'

/**
 * Who is at the other end of a TLS connection, whose handshake is done. Two judges have to agree: OpenSSL, which `authorized`
 * tells of, and `verifyChain`. Throws `CertificateRefusedError`, of the `subject` whose certificate it is.
 */
export function peerOf(socket: TLSSocket, trust: Trust, subject: string): Peer {
  const refused = (reason: CertificateRefusal, problem?: string): CertificateRefusedError =>
    new CertificateRefusedError({ reason, subject, ...(problem !== undefined && { problem }) })
  const peer = vouchedFor(socket, trust, refused)
  if (!socket.authorized) throw refused('unknown-authority', String(socket.authorizationError))
  if (peer.identity.domain !== trust.domain) throw refused('wrong-domain', peer.identity.domain)
  if (trust.isRevoked(peer.publicKey)) throw refused('revoked')
  return peer
}

function vouchedFor(
  socket: TLSSocket,
  trust: Trust,
  refused: (reason: CertificateRefusal, problem?: string) => CertificateRefusedError,
): Peer {
  const leaf = socket.getPeerX509Certificate()
  if (leaf === undefined) throw refused('missing')
  const chain = chainOf(leaf, trust)
  const roots = parsedOnce(trust.rootsPem).map(({ raw }) => raw)
  const now = new Date()
  try {
    // An authority that a server has not met yet, and is not shown: OpenSSL alone has seen the path.
    const isHidden = chain.length === 1 && socket.authorized
    return isHidden ? readMember(leaf.raw, now) : verifyChain({ chain, roots, now })
  } catch (error) {
    if (!(error instanceof CertificateRefusedError)) throw error
    throw refused(error.reason, error.facts['problem'])
  }
}

/**
 * What the peer has shown. A server is not told what stands above a caller's own certificate (nodejs/node#65579): there it is the
 * authority above the server's own, if that has issued this one.
 */
function chainOf(leaf: X509Certificate, { authoritiesPem, rootsPem }: Trust): Buffer[] {
  const shown = shownChain(leaf)
  if (shown.length > 1) return shown
  const authorities = [...parsedOnce(authoritiesPem), ...parsedOnce(rootsPem)]
  const known = authorities.find((authority) => leaf.checkIssued(authority))
  return known === undefined ? shown : [...shown, known.raw]
}

/** Why a peer that was accepted is not any more; undefined while it is. */
export function refusalOf(
  peer: Peer,
  trust: Pick<Trust, 'isRevoked'>,
  subject: string,
): CertificateRefusedError | undefined {
  if (Date.now() >= peer.notAfter.getTime()) {
    return new CertificateRefusedError({ reason: 'expired', subject })
  }
  if (!trust.isRevoked(peer.publicKey)) return undefined
  return new CertificateRefusedError({ reason: 'revoked', subject })
}

/** Timers take 31 bits of milliseconds, and clocks are set: a far moment is looked at again before. */
const EXPIRY_STEP_MAX_MS = 60_000

/** Calls back once when a certificate has expired by the clock of the machine, until the returned function is called. */
export function onExpiry(notAfter: Date, expired: () => void): () => void {
  let timer: NodeJS.Timeout | undefined
  const wait = (): void => {
    const leftMs = notAfter.getTime() - Date.now()
    if (leftMs <= 0) return expired()
    timer = setTimeout(wait, Math.min(leftMs, EXPIRY_STEP_MAX_MS))
    timer.unref()
  }
  wait()
  return () => clearTimeout(timer)
}

const parsed = new Map<string, readonly X509Certificate[]>()
/** A domain has one root, and its members a few authorities in a month. */
const PARSED_MAX = 16

/** The same few certificates are asked for with every connection. */
function parsedOnce(pem: string): readonly X509Certificate[] {
  let certificates = parsed.get(pem)
  if (certificates === undefined) {
    certificates = dersOfPem(pem).map((der) => new X509Certificate(der))
    if (parsed.size >= PARSED_MAX) parsed.clear()
    parsed.set(pem, certificates)
  }
  return certificates
}
