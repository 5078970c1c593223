import { InvalidArgumentError } from '@weft/errors'
import { contains, formatIpAddress, formatPrefix, type IpAddress, type Prefix } from '@weft/net'

/** What the file of a WireGuard client says. Keys are of 32 bytes, in base64. */
export interface ClientFile {
  readonly name: string
  /** Undefined if the client has made its key itself; a secret, as the next. */
  readonly privateKey: string | undefined
  readonly publicKey: string
  readonly presharedKey: string | undefined
  readonly addresses: readonly IpAddress[]
  /** Of the network. */
  readonly prefixes: readonly Prefix[]
  readonly mtuBytes: number
  readonly hostPublicKey: string
  /** `ADDRESS:PORT` or `NAME:PORT`. */
  readonly hostEndpoint: string
  /** Where the host may be reached as well. */
  readonly otherEndpoints: readonly string[]
}

const KEY_BYTES = 32
/** Of a NAT between client and host the mapping lives at least 30 s (RFC 4787, 4.3 says 2 min, and some know less). */
export const KEEPALIVE_SECONDS = 25

/** The file as `wg-quick` and the apps of WireGuard read it. */
export function clientFileText(file: ClientFile): string {
  const { name, privateKey, publicKey, presharedKey, hostEndpoint, otherEndpoints } = file
  return lines([
    `# ${name}`,
    '[Interface]',
    privateKey === undefined
      ? `# PrivateKey = the one that belongs to ${publicKey}`
      : `PrivateKey = ${privateKey}`,
    `Address = ${addressesWithLength(file).join(', ')}`,
    `MTU = ${file.mtuBytes}`,
    '',
    '[Peer]',
    `PublicKey = ${file.hostPublicKey}`,
    ...(presharedKey === undefined ? [] : [`PresharedKey = ${presharedKey}`]),
    `AllowedIPs = ${file.prefixes.map(formatPrefix).join(', ')}`,
    `Endpoint = ${hostEndpoint}`,
    ...otherEndpoints.map((other) => `# or: Endpoint = ${other}`),
    `PersistentKeepalive = ${KEEPALIVE_SECONDS}`,
  ])
}

/** The addresses, each with the length of the network's prefix that it is in. */
export function addressesWithLength({
  addresses,
  prefixes,
}: Pick<ClientFile, 'addresses' | 'prefixes'>): string[] {
  return addresses.map((address) => {
    const around = prefixes.find((prefix) => contains(prefix, address))
    const text = formatIpAddress(address)
    return around === undefined ? text : `${text}/${around.lengthBits}`
  })
}

/** `ADDRESS:PORT`, `[ADDRESS]:PORT` or `NAME:PORT`, as a client takes it. */
export function parseHostEndpoint(text: string): string {
  const match = /^(?:\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?):(\d{1,5})$/i.exec(text)
  const port = Number(match?.[1])
  if (match && port >= 1 && port <= 65_535) return text
  throw new InvalidArgumentError({
    field: '--endpoint',
    problem: `${JSON.stringify(text)} is no UDP address`,
    remedy: 'write it as ADDRESS:PORT, [ADDRESS]:PORT or NAME:PORT',
  })
}

/** The public key of a client, as `wg pubkey` writes it. Whether it is one that anybody can have is looked at later. */
export function parseClientKey(text: string): string {
  const bytes = Buffer.from(text, 'base64')
  if (bytes.length === KEY_BYTES && bytes.toString('base64') === text) return text
  throw new InvalidArgumentError({
    field: '--public-key',
    problem: `it is not ${KEY_BYTES} bytes in base64`,
    remedy: 'give the 44 characters that wg pubkey writes, or leave it out and get a new key',
  })
}

/** A QR code for a terminal of any colours: two rows of modules in a line, black on white. */
export async function qrText(content: string): Promise<string> {
  const { encodeQR } = await import('qr')
  const modules = encodeQR(content, 'raw', { ecc: 'low', border: QUIET_ZONE })
  const rows: string[] = []
  for (let y = 0; y < modules.length; y += 2) {
    const [upper = [], lower = []] = [modules[y], modules[y + 1]]
    const cells = upper.map((isDark, x) => HALVES[isDark ? 1 : 0][(lower[x] ?? false) ? 1 : 0])
    rows.push(`${BLACK_ON_WHITE}${cells.join('')}${RESET}`)
  }
  return lines(rows)
}

/** Modules around the symbol (ISO/IEC 18004, 9.1). */
const QUIET_ZONE = 4
/** By whether the upper module is dark, and the lower one. */
const HALVES = [
  [' ', '▄'],
  ['▀', '█'],
] as const
/** ECMA-48, SGR: colours that no theme changes. */
const BLACK_ON_WHITE = '\u001b[38;2;0;0;0;48;2;255;255;255m'
const RESET = '\u001b[0m'

function lines(all: readonly string[]): string {
  return `${all.join('\n')}\n`
}
