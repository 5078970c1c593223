import type { Socket } from 'node:net'
import { sourceOf } from '@weft/net'
import { STRANGERS_MAX, STRANGERS_OF_SOURCE_MAX } from './limits.ts'

/**
 * TCP connections of whom nobody knows who it is: in their handshake, being told why they are refused, or of a caller that shows
 * no certificate. When all places are taken, the source with the most of them loses its oldest: one source, and a few as
 * well, never keep the others out.
 */
export class Strangers {
  readonly #max: number
  readonly #ofSourceMax: number
  readonly #bySource = new Map<string, Set<Socket>>()
  readonly #byEnds = new Map<string, Socket>()

  constructor(max: number = STRANGERS_MAX, ofSourceMax: number = STRANGERS_OF_SOURCE_MAX) {
    this.#max = max
    this.#ofSourceMax = ofSourceMax
  }

  /** Takes one in until it closes or is `known`; says whether there is a place. */
  add(socket: Socket): boolean {
    const { remoteAddress } = socket
    // It is gone already, and closes.
    if (remoteAddress === undefined) return true
    const source = sourceOf(remoteAddress)
    const ends = endsOf(socket)
    const count = this.#bySource.get(source)?.size ?? 0
    if (count >= this.#ofSourceMax) return false
    if (this.#byEnds.size >= this.#max && !this.#makePlace(count)) return false
    const own = this.#bySource.get(source) ?? new Set()
    this.#bySource.set(source, own.add(socket))
    this.#byEnds.set(ends, socket)
    socket.once('close', () => this.#forget(socket, source, ends))
    return true
  }

  /** One of them is somebody from now on. `secured` is TLS over a socket that was taken in. */
  known(secured: Socket): void {
    const ends = endsOf(secured)
    const socket = this.#byEnds.get(ends)
    if (socket) this.#forget(socket, sourceOf(secured.remoteAddress ?? ''), ends)
  }

  /** Closes one of the source with the most, unless the one that asks has about as many: nobody would have more of it. */
  #makePlace(count: number): boolean {
    let most: ReadonlySet<Socket> | undefined
    for (const sockets of this.#bySource.values()) {
      if (sockets.size > (most?.size ?? count + 1)) most = sockets
    }
    const [oldest] = most ?? []
    if (oldest === undefined) return false
    this.known(oldest)
    oldest.destroy()
    return true
  }

  #forget(socket: Socket, source: string, ends: string): void {
    if (this.#byEnds.get(ends) === socket) this.#byEnds.delete(ends)
    const sockets = this.#bySource.get(source)
    if (sockets?.delete(socket) && sockets.size === 0) this.#bySource.delete(source)
  }
}

/** Both ends of a connection: the same for a socket and for TLS over it, which know nothing of each other. */
function endsOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`
}
