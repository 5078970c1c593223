import type { Authorise } from '@weft/access'
import type { Credentials, Peer, ServiceName } from '@weft/identity'

/** Who may talk to a server. There is no other way to serve. */
export type ServerSecurity =
  /** TLS 1.3 both ways: every caller has a certificate of the domain, and a rule that allows the call. */
  | {
      readonly kind: 'mutual-tls'
      readonly credentials: Credentials
      readonly authorise: Authorise
    }
  /** Only the server shows a certificate, with its root, which callers pin. For enrolment. */
  | {
      readonly kind: 'server-tls'
      readonly credentials: Credentials
      readonly authorise: Authorise
    }
  /** Unix sockets only: whoever may open the socket may call, by its mode and group and those of its folder. */
  | { readonly kind: 'socket-mode' }

/** How a client makes sure of the server, and who it is itself. There is no other way to connect. */
export type ClientSecurity =
  /** The server has to be that service of the client's own domain. */
  | {
      readonly kind: 'mutual-tls'
      readonly credentials: Credentials
      readonly peer: ServiceName
      /** Hears who the server is, each time that it is connected. */
      readonly onPeer?: (peer: Peer) => void
    }
  /** Without a certificate of its own, for enrolment: the server has to be that service of that domain, by this root (PEM). */
  | {
      readonly kind: 'pinned'
      readonly rootPem: string
      readonly domain: string
      readonly peer: ServiceName
    }
  /** Unix sockets only. */
  | { readonly kind: 'socket-mode' }

/** Throws for an address that is no unix socket, on which nobody would be kept out. */
export function requireUnixSocket(address: string): void {
  if (address.startsWith('unix:')) return
  throw new TypeError(`${address} is no unix socket: only those are guarded by their mode`)
}
