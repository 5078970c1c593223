import type { DetailedPeerCertificate, PeerCertificate } from 'node:tls'
import type { Authenticator, NodeConnectionOptions } from '@nats-io/transport-node'
import { CertificateRefusedError, UnauthenticatedError } from '@weft/errors'
import {
  type BusLogin,
  type Credentials,
  dersOfPem,
  formatIdentity,
  type Peer,
  shownChain,
  verifyChain,
} from '@weft/identity'
import type { Logger } from '@weft/telemetry'
import { openSeed } from './nkey.ts'

/** As whom a process speaks to NATS, and which server it believes. */
export interface BusIdentity {
  readonly credentials: Credentials
  /** Another user than that of the credentials. */
  readonly login: BusLogin | undefined
}

/** The user to log in as. @throws UnauthenticatedError for those who have no business on the bus. */
export function loginOf({ credentials, login = credentials.bus }: BusIdentity): BusLogin {
  if (login) return login
  throw new UnauthenticatedError({ what: `${formatIdentity(credentials.identity)} on the bus` })
}

/**
 * The one place that decides as whom a process speaks to NATS. TLS 1.3 comes first, with a certificate on both sides; ours and
 * the login are read anew for every connection. The server is believed by its identity, never by its name or address.
 * `onServer` is told who it is.
 *
 * `nextDial` is asked for a signal for each socket. A client that gives a server up leaves its socket to the kernel, which goes on
 * connecting for two minutes (tcp(7), tcp_syn_retries): after an outage each client would have dozens of them.
 */
export function natsIdentity(
  identity: BusIdentity,
  log: Logger,
  onServer: (server: Peer) => void,
  nextDial: () => AbortSignal,
): Partial<NodeConnectionOptions> {
  const { credentials } = identity
  const tls = {
    handshakeFirst: true,
    minVersion: 'TLSv1.3',
    get cert() {
      return credentials.tls.chainPem
    },
    get key() {
      return credentials.tls.keyPem
    },
    get ca() {
      return credentials.tls.rootsPem
    },
    /** An option of `tls.connect`, which gets all of these. */
    get signal() {
      return nextDial()
    },
    checkServerIdentity: (_name: string, certificate: PeerCertificate): Error | undefined => {
      try {
        onServer(verifyServer(credentials, certificate as DetailedPeerCertificate, new Date()))
        return undefined
      } catch (error) {
        log.warn({ err: error }, 'the nats-server is not believed')
        return error as Error
      }
    },
  } as const
  const authenticator: Authenticator = (nonce = '') => {
    const { jwt, seed } = loginOf(identity)
    const key = openSeed('user', seed)
    return {
      jwt,
      nkey: key.publicKey,
      sig: key.sign(Buffer.from(nonce)).toString('base64url'),
    }
  }
  return { tls, authenticator }
}

/** Who the server is. @throws CertificateRefusedError if it is not a nats-server of our domain. */
function verifyServer(
  credentials: Credentials,
  certificate: DetailedPeerCertificate,
  now: Date,
): Peer {
  const roots = dersOfPem(credentials.tls.rootsPem)
  const server = verifyChain({ chain: shownChain(certificate), roots, now })
  const { identity, publicKey } = server
  const refuse = (reason: 'wrong-domain' | 'wrong-peer' | 'revoked'): CertificateRefusedError =>
    new CertificateRefusedError({
      reason,
      subject: 'the certificate of nats-server',
      problem: `it is that of ${formatIdentity(identity)}`,
    })
  if (identity.domain !== credentials.identity.domain) throw refuse('wrong-domain')
  if (identity.kind !== 'service' || identity.id !== 'nats') throw refuse('wrong-peer')
  if (credentials.isRevoked(publicKey)) throw refuse('revoked')
  return server
}
