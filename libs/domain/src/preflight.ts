import { connect as connectTls, type TLSSocket } from 'node:tls'
import {
  asWeftError,
  CertificateRefusedError,
  InvalidArgumentError,
  UnavailableError,
} from '@weft/errors'
import { fingerprintOf, parseFingerprint, pemOf, shownChain, verifyChain } from '@weft/identity'

/** A domain whose root is the expected one, with proof that its config service answers there. */
export interface PinnedDomain {
  readonly domain: string
  readonly root: Buffer
  readonly rootPem: string
}

export interface Preflight {
  /** `HOST:PORT` or `unix:/PATH` of the enrolment listener. */
  readonly control: string
  /** SHA-256 of the root certificate, as `weft init` printed it. */
  readonly fingerprint: string
  readonly signal?: AbortSignal | undefined
  /** Milliseconds since 1970. */
  readonly now: number
}

const HANDSHAKE_TIMEOUT_MS = 5000

const COMPARE_FINGERPRINTS =
  'compare the fingerprint that was given with what weft init printed, or with what weft context show says to somebody who is in the domain (on a host: WEFT_IDENTITY=/var/lib/weft/identity weft context show): if they are the same, another domain answers at this address, so check --control'

/**
 * Looks who answers, without saying anything: a handshake without a certificate of our own. Only a server with a chain to
 * the root of this fingerprint, for `service/config`, gets past.
 * @throws UnavailableError; CertificateRefusedError; InvalidArgumentError for a malformed fingerprint or address
 */
export async function findDomain(preflight: Preflight): Promise<PinnedDomain> {
  const { control } = preflight
  const expected = parseFingerprint(preflight.fingerprint)
  const chain = await chainOf(preflight)
  const root = chain.find((der) => fingerprintOf(der) === expected)
  if (root === undefined) {
    const seen = chain.at(-1)
    throw new CertificateRefusedError({
      reason: 'unknown-authority',
      subject: `the server at ${control}`,
      problem: `its root has the fingerprint ${seen === undefined ? 'of nothing' : fingerprintOf(seen)}, not ${expected}; nothing was sent there`,
      remedy: COMPARE_FINGERPRINTS,
    })
  }
  const now = new Date(preflight.now)
  const { identity } = verifyChain({ chain, roots: [root], now })
  if (identity.kind !== 'service' || identity.id !== 'config') {
    throw new CertificateRefusedError({
      reason: 'wrong-peer',
      subject: `the server at ${control}`,
      problem: `${identity.kind} ${identity.id} is not service config`,
    })
  }
  return { domain: identity.domain, root, rootPem: pemOf(root) }
}

/** The certificates that a server shows, DER, leaf first. Nothing is believed of them yet. */
async function chainOf({ control, signal }: Preflight): Promise<Buffer[]> {
  const socket = connectTls({
    ...targetOf(control),
    minVersion: 'TLSv1.3',
    ALPNProtocols: ['h2'],
    // Judged below, by the fingerprint: there is no list of authorities that would know this domain.
    rejectUnauthorized: false,
  })
  try {
    await handshake(socket, control, signal)
    return shownChain(socket.getPeerX509Certificate())
  } finally {
    socket.destroy()
  }
}

async function handshake(
  socket: TLSSocket,
  control: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const cancel = (): void => reject(asWeftError(signal?.reason))
  signal?.addEventListener('abort', cancel, { once: true })
  socket.setTimeout(HANDSHAKE_TIMEOUT_MS, () => reject(new Error('it says nothing')))
  socket.once('secureConnect', resolve)
  socket.on('error', reject)
  socket.once('close', () => reject(new Error('it closed the connection')))
  try {
    if (signal?.aborted) cancel()
    await promise
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    throw new UnavailableError(
      { service: 'enrolment', address: control, problem },
      { cause: error },
    )
  } finally {
    signal?.removeEventListener('abort', cancel)
    socket.setTimeout(0)
  }
}

function targetOf(control: string): { path: string } | { host: string; port: number } {
  if (control.startsWith('unix:')) return { path: control.slice('unix:'.length) }
  const [, v6, host = v6, port] =
    /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]/\s]+)):(\d{1,5})$/.exec(control) ?? []
  if (host !== undefined && Number(port) > 0 && Number(port) <= 0xffff) {
    return { host, port: Number(port) }
  }
  throw new InvalidArgumentError({
    field: 'control',
    problem: `${JSON.stringify(control.slice(0, 100))} is no address`,
    remedy: 'give HOST:PORT of the enrolment listener, for example control.example:7004',
  })
}
