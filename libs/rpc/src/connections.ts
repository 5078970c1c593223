import type { Socket } from 'node:net'
import { CertificateRefusedError, OverloadedError, type WeftError } from '@weft/errors'
import { type Credentials, formatIdentity, type Peer } from '@weft/identity'
import {
  CALLS_OF_ONE_MAX,
  CONNECTIONS_MAX,
  CONNECTIONS_OF_ONE_MAX,
  END_GRACE_MS,
  RETRY_AFTER_MS,
  UNKNOWN_CALLER_IDLE_MAX_MS,
  UNKNOWN_CALLER_MAX_MS,
} from './limits.ts'
import { OF_CALLER, onExpiry, refusalOf } from './tls.ts'

/** What one identity has under way, over all of its connections. */
interface Share {
  connections: number
  unaryCalls: number
  streams: number
}

/** Which of the two kinds of calls, that are counted each. */
export type CallKind = 'unaryCalls' | 'streams'

/** A connection that was let in. */
export interface Connection {
  readonly id: string
  /** Undefined where callers show no certificate. */
  readonly caller: Peer | undefined
  /** Address of the caller, for example `127.0.0.1:43210`, or `unix`. */
  readonly address: string
  /** Why it has ended, if it has. */
  readonly ended: WeftError | undefined
  /**
   * Counts a call until it is released, or the connection closes. Throws `OverloadedError` if its identity has too many, and why
   * the connection has ended if it has.
   */
  admit(kind: CallKind, call: AbortController, what: string): void
  release(call: AbortController): void
}

/** All connections of one server. Each ends when the certificate of its peer expires or the peer is revoked. */
export class Connections implements Disposable {
  readonly #byId = new Map<string, OpenConnection>()
  readonly #shares = new Map<string, Share>()
  readonly #stopListening: () => void
  #nextId = 1

  /** Without credentials for a server that knows its callers by their socket. */
  constructor(credentials: Credentials | undefined) {
    const unlisten = credentials?.onChange((what) => {
      if (what === 'revoked') this.#endRefused(credentials)
    })
    this.#stopListening = unlisten ?? (() => undefined)
  }

  /** The connection of a call, by what gRPC says of its peer; undefined once it is closed. */
  find(peer: string): OpenConnection | undefined {
    return this.#byId.get(peer)
  }

  /** Takes a connection in of somebody who is known. Throws `OverloadedError` if its identity, or everybody, has too many. */
  addKnown(socket: Socket, caller: Peer): void {
    if (this.#byId.size >= CONNECTIONS_MAX) {
      throw new OverloadedError({
        what: 'this server by connections',
        limit: CONNECTIONS_MAX,
        retryAfterMs: RETRY_AFTER_MS,
      })
    }
    const share = this.#shareOf(caller)
    if (share.connections >= CONNECTIONS_OF_ONE_MAX) {
      throw new OverloadedError({
        what: 'this server by connections of one identity',
        limit: CONNECTIONS_OF_ONE_MAX,
        retryAfterMs: RETRY_AFTER_MS,
      })
    }
    share.connections++
    this.#add(socket, caller, share)
    socket.once('close', () => {
      share.connections--
      if (share.connections === 0) this.#shares.delete(formatIdentity(caller.identity))
    })
  }

  /** Takes a connection in of one of a family: whoever may open the unix socket. */
  addFamily(socket: Socket): void {
    this.#add(socket, undefined, undefined)
  }

  /** Takes a connection in of nobody known, who has little time. */
  addUnknown(socket: Socket): void {
    const connection = this.#add(socket, undefined, undefined)
    connection.hurry()
  }

  [Symbol.dispose](): void {
    this.#stopListening()
  }

  #endRefused(credentials: Credentials): void {
    for (const connection of this.#byId.values()) {
      const refusal = connection.caller && refusalOf(connection.caller, credentials, OF_CALLER)
      if (refusal) connection.end(refusal)
    }
  }

  #add(socket: Socket, caller: Peer | undefined, share: Share | undefined): OpenConnection {
    const id = `connection ${this.#nextId++}`
    const connection = new OpenConnection(id, socket, caller, share)
    this.#byId.set(id, connection)
    socket.once('close', () => {
      this.#byId.delete(id)
      connection.close()
    })
    return connection
  }

  #shareOf({ identity }: Peer): Share {
    const name = formatIdentity(identity)
    let share = this.#shares.get(name)
    if (share === undefined) {
      share = { connections: 0, unaryCalls: 0, streams: 0 }
      this.#shares.set(name, share)
    }
    return share
  }
}

class OpenConnection implements Connection {
  readonly id: string
  readonly caller: Peer | undefined
  readonly address: string
  readonly #socket: Socket
  readonly #share: Share | undefined
  readonly #calls = new Map<AbortController, CallKind>()
  readonly #forgetExpiry: () => void
  #ended: WeftError | undefined
  #isHurried = false
  #life: NodeJS.Timeout | undefined
  #idle: NodeJS.Timeout | undefined

  constructor(id: string, socket: Socket, caller: Peer | undefined, share: Share | undefined) {
    this.id = id
    this.caller = caller
    this.#socket = socket
    this.#share = share
    const { remoteAddress, remotePort } = socket
    this.address = remoteAddress === undefined ? 'unix' : `${remoteAddress}:${remotePort}`
    // gRPC shows a call nothing of its connection but the address of the peer: the id stands there, so that each call finds
    // its own connection, also on a unix socket.
    Object.defineProperty(socket, 'remoteAddress', { value: id })
    Object.defineProperty(socket, 'remotePort', { value: undefined })
    this.#forgetExpiry = caller ? onExpiry(caller.notAfter, () => this.#expire()) : () => undefined
  }

  get ended(): WeftError | undefined {
    return this.#ended
  }

  admit(kind: CallKind, call: AbortController, what: string): void {
    // Clocks are set: the timer may be late.
    if (this.caller && Date.now() >= this.caller.notAfter.getTime()) this.#expire()
    if (this.#ended) throw this.#ended
    const share = this.#share
    if (share && share[kind] >= CALLS_OF_ONE_MAX) {
      throw new OverloadedError({ what, limit: CALLS_OF_ONE_MAX, retryAfterMs: RETRY_AFTER_MS })
    }
    if (share) share[kind]++
    this.#calls.set(call, kind)
    clearTimeout(this.#idle)
  }

  release(call: AbortController): void {
    const kind = this.#calls.get(call)
    if (kind === undefined) return
    this.#calls.delete(call)
    if (this.#share) this.#share[kind]--
    this.#waitForCall()
  }

  /** Closes it after a while, and sooner if it has no call. */
  hurry(): void {
    this.#isHurried = true
    this.#life = setTimeout(() => this.#socket.destroy(), UNKNOWN_CALLER_MAX_MS)
    this.#waitForCall()
  }

  #waitForCall(): void {
    if (!this.#isHurried || this.#calls.size > 0) return
    clearTimeout(this.#idle)
    this.#idle = setTimeout(() => this.#socket.destroy(), UNKNOWN_CALLER_IDLE_MAX_MS)
  }

  /** Ends its calls at once, and itself when they have been told. */
  end(reason: WeftError): void {
    if (this.#ended) return
    this.#ended = reason
    for (const call of this.#calls.keys()) call.abort(reason)
    setTimeout(() => this.#socket.destroy(), END_GRACE_MS)
  }

  #expire(): void {
    this.end(new CertificateRefusedError({ reason: 'expired', subject: OF_CALLER }))
  }

  /** The socket is closed. */
  close(): void {
    this.#forgetExpiry()
    this.#isHurried = false
    clearTimeout(this.#life)
    clearTimeout(this.#idle)
    for (const call of this.#calls.keys()) this.release(call)
  }
}
