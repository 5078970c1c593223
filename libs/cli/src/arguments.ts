import {
  InvalidAddressError,
  InvalidArgumentError,
  InvalidMacError,
  InvalidNameError,
  InvalidPrefixError,
} from '@weft/errors'
import {
  canonical,
  formatPrefix,
  type IpAddress,
  isCanonical,
  isPort,
  type MacAddress,
  nameProblem,
  type Prefix,
  parseIpAddress,
  parseMacAddress,
  parsePrefix,
} from '@weft/net'
import type {
  EndpointRef,
  Grant,
  HostAddress,
  Labels,
  NetworkRef,
  Role,
  SocketAddress,
} from '@weft/sdk'

/** An endpoint as it was named; without a network it has to be looked for. */
export interface EndpointWords {
  readonly tenant: string
  readonly network: string | undefined
  readonly endpoint: string
}

/** `NETWORK` or `TENANT/NETWORK`. */
export function parseNetworkRef(text: string, tenant: string): NetworkRef {
  const parts = text.split('/')
  const [first = '', second] = parts
  if (parts.length > 2) throw wrongForm('network', text, '[TENANT/]NETWORK')
  return second === undefined
    ? { tenant, network: checkName('network', first) }
    : { tenant: checkName('tenant', first), network: checkName('network', second) }
}

/** `ENDPOINT`, `NETWORK/ENDPOINT` or `TENANT/NETWORK/ENDPOINT`; `network` is what `--network` says. */
export function parseEndpointWords(text: string, tenant: string, network?: string): EndpointWords {
  const parts = text.split('/')
  const endpoint = checkName('endpoint', parts.at(-1) ?? '')
  if (parts.length > 3) throw wrongForm('endpoint', text, '[[TENANT/]NETWORK/]ENDPOINT')
  if (parts.length === 1) {
    if (network === undefined) return { tenant, network: undefined, endpoint }
    return { ...parseNetworkRef(network, tenant), endpoint }
  }
  if (network !== undefined) {
    const problem = `${text} names a network, and so does --network ${network}`
    throw new InvalidArgumentError({ field: 'endpoint', problem, remedy: 'leave one of them out' })
  }
  return { ...parseNetworkRef(parts.slice(0, -1).join('/'), tenant), endpoint }
}

/** An endpoint with its network, which must have been said. */
export function parseEndpointRef(text: string, tenant: string, network?: string): EndpointRef {
  const words = parseEndpointWords(text, tenant, network)
  if (words.network !== undefined) return { ...words, network: words.network }
  const problem = `${text} is on which network?`
  const remedy = `say NETWORK/${text}, or --network NETWORK`
  throw new InvalidArgumentError({ field: 'endpoint', problem, remedy })
}

/** Several may be given to one option: `--ip A --ip B`. */
export function collect<T>(parse: (text: string) => T): (text: string, before?: T[]) => T[] {
  return (text, before = []) => [...before, parse(text)]
}

export function parseAddress(text: string): IpAddress {
  const address = parseIpAddress(text)
  if (address === undefined) throw new InvalidAddressError({ address: text })
  return address
}

export function parseCanonicalPrefix(text: string): Prefix {
  const prefix = parsePrefix(text)
  if (prefix === undefined) throw new InvalidPrefixError({ prefix: text })
  if (isCanonical(prefix)) return prefix
  const suggestion = formatPrefix(canonical(prefix))
  throw new InvalidPrefixError({ prefix: text, problem: 'it has host bits', suggestion })
}

export function parseMac(text: string): MacAddress {
  const mac = parseMacAddress(text)
  if (mac === undefined) throw new InvalidMacError({ mac: text })
  return mac
}

/** `ADDRESS@ZONE`. */
export function parseHostAddress(text: string): HostAddress {
  const [address, zone, ...rest] = text.split('@')
  if (address === undefined || zone === undefined || rest.length > 0) {
    throw wrongForm('address', text, 'ADDRESS@ZONE, for example 192.0.2.11@lab')
  }
  return { address: parseAddress(address), zone: checkName('zone', zone) }
}

/** `ADDRESS`, in the zone of the token, or `ADDRESS@ZONE`. */
export function parseJoinAddress(text: string): HostAddress {
  return text.includes('@') ? parseHostAddress(text) : { address: parseAddress(text), zone: '' }
}

/** `ADDRESS:PORT`, of IPv6 `[ADDRESS]:PORT`. */
export function parseSocketAddress(text: string): SocketAddress {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text)
  const port = Number(match?.[3])
  if (!match || !isPort(port)) throw wrongForm('address', text, 'ADDRESS:PORT or [ADDRESS]:PORT')
  return { address: parseAddress(match[1] ?? match[2] ?? ''), port }
}

/** `ROLE` in the whole domain, or `ROLE@TENANT`. */
export function parseGrant(text: string): Grant & { readonly role: Role } {
  const [word, tenant, ...rest] = text.split('@')
  const role = ROLE_WORDS.find((known) => known === word)
  if (role === undefined || rest.length > 0) {
    throw wrongForm('grant', text, `ROLE or ROLE@TENANT, ROLE one of ${ROLE_WORDS.join(', ')}`)
  }
  return { role, tenant: tenant === undefined ? undefined : checkName('tenant', tenant) }
}

/** The same as `ROLES` of the SDK, which is not loaded for this. */
const ROLE_WORDS: readonly Role[] = ['owner', 'operator', 'subscriber', 'auditor']

/** `KEY=VALUE`, several times. */
export function collectLabels(text: string, before: Labels = {}): Labels {
  const at = text.indexOf('=')
  if (at <= 0) throw wrongForm('label', text, 'KEY=VALUE')
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) }
}

/** A whole number within bounds. */
export function wholeNumber(field: string, min: number, max: number): (text: string) => number {
  return (text) => {
    const number = Number(text)
    if (/^\d+$/.test(text) && number >= min && number <= max) return number
    const problem = `${JSON.stringify(text)} is no whole number from ${min} to ${max}`
    throw new InvalidArgumentError({ field, problem, remedy: `choose ${min} to ${max}` })
  }
}

/** `250ms`, `1s`, `2m` or `1h`, in milliseconds. */
export function parseDurationMs(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text)
  const unit = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[match?.[2] ?? '']
  if (unit !== undefined) return Math.round(Number(match?.[1]) * unit)
  throw new InvalidArgumentError({
    field: 'duration',
    problem: `${JSON.stringify(text)} is no duration`,
    remedy: 'say for example 250ms, 1s, 2m or 1h',
  })
}

export function checkName(kind: string, name: string): string {
  const problem = nameProblem(name)
  if (problem !== undefined) throw new InvalidNameError({ kind, name, problem })
  return name
}

function wrongForm(field: string, text: string, form: string): InvalidArgumentError {
  const problem = `${JSON.stringify(text)} is not of the form ${form}`
  return new InvalidArgumentError({ field, problem, remedy: `write it as ${form}` })
}
