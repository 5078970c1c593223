import { once } from 'node:events'
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls'
import type { Credentials, TlsMaterial } from '@weft/identity'
import { openSeed } from '../src/nkey.ts'

/** A message that reached a raw client. */
export interface RawMessage {
  readonly subject: string
  readonly payload: string
}

/** What a raw client shows; each part may be wrong. */
export interface RawLogin {
  readonly tls: TlsMaterial
  readonly jwt?: string
  /** Signs the server's nonce. */
  readonly seed?: Uint8Array
  readonly tlsOptions?: ConnectionOptions
}

/** Says on the wire of NATS whatever a test wants, as no proper client would. */
export class RawClient implements AsyncDisposable {
  /** What the server refused, without `-ERR`. */
  readonly errors: string[] = []
  readonly messages: RawMessage[] = []
  /** What it answers to every question; nothing by default. */
  answer: string | undefined
  readonly socket: TLSSocket
  /** Resolves when the connection ends, whoever ended it. */
  readonly closed: Promise<void>
  readonly #pongs: (() => void)[] = []
  #lastCount: Promise<number> = Promise.resolve(0)
  #received = Buffer.alloc(0)
  readonly #nonce = Promise.withResolvers<string>()

  private constructor(socket: TLSSocket) {
    this.socket = socket
    const closed = Promise.withResolvers<void>()
    this.closed = closed.promise
    socket.on('error', (error) => this.#nonce.reject(error))
    socket.on('close', () => {
      this.#nonce.reject(new Error('the server closed the connection'))
      for (const pong of this.#pongs) pong()
      closed.resolve()
    })
    socket.on('data', (data: Buffer) => this.#take(data))
    this.#nonce.promise.catch(() => undefined)
  }

  /** Connects and logs in; rejects with what the server said if it refuses. */
  static async connect(url: string, login: RawLogin): Promise<RawClient> {
    const { hostname, port } = new URL(url)
    const { tls } = login
    const socket = connectTls({
      host: hostname,
      port: Number(port),
      cert: tls.chainPem,
      key: tls.keyPem,
      ca: tls.rootsPem,
      checkServerIdentity: () => undefined,
      ...login.tlsOptions,
    })
    const client = new RawClient(socket)
    const nonce = await client.#nonce.promise
    const key = login.seed && openSeed('user', login.seed)
    const options = {
      verbose: false,
      pedantic: false,
      lang: 'raw',
      version: '0',
      protocol: 1,
      headers: true,
      no_responders: true,
      ...(login.jwt === undefined ? {} : { jwt: login.jwt }),
      ...(key && { nkey: key.publicKey, sig: key.sign(Buffer.from(nonce)).toString('base64url') }),
    }
    client.write(`CONNECT ${JSON.stringify(options)}\r\n`)
    await client.settled()
    const [refusal] = client.errors
    if (refusal !== undefined || socket.destroyed) {
      socket.destroy()
      throw new Error(refusal ?? 'the server closed the connection')
    }
    return client
  }

  /** Connects with credentials as they are. */
  static as(url: string, { tls, bus }: Credentials): Promise<RawClient> {
    if (!bus) throw new Error('these credentials have no login')
    return RawClient.connect(url, { tls, jwt: bus.jwt, seed: bus.seed })
  }

  write(data: string | Uint8Array): boolean {
    return this.socket.write(data)
  }

  publish(subject: string, payload = '', reply = ''): void {
    this.write(
      `PUB ${subject} ${reply}${reply && ' '}${Buffer.byteLength(payload)}\r\n${payload}\r\n`,
    )
  }

  /** Resolves when the server has taken all that was said before, or has closed the connection. */
  async settled(): Promise<void> {
    if (this.socket.destroyed) return
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#pongs.push(resolve)
    this.write('PING\r\n')
    await promise
  }

  /** Says something and answers whether the server refused it. Several may be under way: the server answers in order. */
  async isRefused(data: string): Promise<boolean> {
    this.write(data)
    const errorCount = Promise.withResolvers<number>()
    // What was refused before it has been told when the server has taken all before it.
    const before = this.#lastCount
    this.#lastCount = errorCount.promise
    this.#pongs.push(() => errorCount.resolve(this.errors.length))
    this.write('PING\r\n')
    return (await errorCount.promise) > (await before)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.socket.destroyed) return
    this.socket.destroy()
    await once(this.socket, 'close')
  }

  #take(data: Buffer): void {
    this.#received = Buffer.concat([this.#received, data])
    for (;;) {
      const end = this.#received.indexOf('\r\n')
      if (end < 0) return
      const line = this.#received.subarray(0, end).toString()
      const [verb = '', ...rest] = line.split(' ')
      let bodyBytes = 0
      if (verb === 'MSG' || verb === 'HMSG') {
        bodyBytes = Number(rest.at(-1))
        if (this.#received.length < end + 4 + bodyBytes) return
        const headerBytes = verb === 'HMSG' ? Number(rest.at(-2)) : 0
        const body = this.#received.subarray(end + 2 + headerBytes, end + 2 + bodyBytes)
        this.messages.push({ subject: rest[0] ?? '', payload: body.toString() })
        // Subject, sid, reply subject if there is one, and one or two sizes.
        const reply = rest.length > (verb === 'MSG' ? 3 : 4) ? rest[2] : undefined
        if (reply && this.answer !== undefined) this.publish(reply, this.answer)
        bodyBytes += 2
      } else if (verb === 'INFO') {
        this.#nonce.resolve(String(JSON.parse(line.slice(5)).nonce))
      } else if (verb === 'PING') {
        this.write('PONG\r\n')
      } else if (verb === 'PONG') {
        this.#pongs.shift()?.()
      } else if (verb === '-ERR') {
        this.errors.push(line.slice(5).replaceAll(/^'|'$/g, ''))
      }
      this.#received = this.#received.subarray(end + 2 + bodyBytes)
    }
  }
}
