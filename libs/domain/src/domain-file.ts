import type { AccountIds } from '@weft/bus/operator'
import { BrokenInputError } from '@weft/errors'
import type { ServiceName } from '@weft/identity'

/** Where a domain is served: `HOST:PORT`, `unix:/PATH` or, for the bus, URLs. Message `weftline.identity.v1.Places`. */
export interface Places {
  readonly config: readonly string[]
  readonly enrolment: readonly string[]
  readonly locationResolver: readonly string[]
  readonly routingPolicy: readonly string[]
  readonly bus: readonly string[]
}

/** What `authority/domain.json` says. Nothing in it is secret. */
export interface DomainFile {
  /** For example `lab.example`: the first part of every identity. */
  readonly domain: string
  readonly places: Places
  /** The first user's Ed25519 public key, 32 bytes as lower-case hex. */
  readonly ownerPublicKey: string
  /** Public nkeys of the bus, for its configuration and for who checks it. */
  readonly operator: string
  readonly accounts: AccountIds
  /** The keys of each service, by name: what it gets certificates and bus logins for. */
  readonly services: { readonly [name in ServiceName]: ServiceKeys }
}

export interface ServiceKeys {
  /** Ed25519 public key, 32 bytes as lower-case hex. */
  readonly identityKey: string
  /** Public nkey; empty for nats, which is the bus. */
  readonly busKey: string
}

export function formatDomainFile(file: DomainFile): string {
  return `${JSON.stringify(file, undefined, 2)}\n`
}

/** @throws BrokenInputError that names what is wrong */
export function parseDomainFile(text: string, source: string): DomainFile {
  const wrong = (problem: string): BrokenInputError =>
    new BrokenInputError({ source, format: 'domain.json', problem })
  const file = objectOf(parseJson(text, wrong), 'the file', wrong)
  const texts = (names: readonly string[], from: Record<string, unknown>): string[] =>
    names.map((name) => {
      const value = from[name]
      if (typeof value !== 'string') throw wrong(`${name} is no text`)
      return value
    })
  const [domain = '', ownerPublicKey = '', operator = ''] = texts(
    ['domain', 'ownerPublicKey', 'operator'],
    file,
  )
  if (!isKeyText(ownerPublicKey)) {
    throw wrong('ownerPublicKey is not 32 bytes in lower-case hex')
  }
  const accounts = objectOf(file['accounts'], 'accounts', wrong)
  const [control = '', location = '', routing = '', hosts = '', system = ''] = texts(
    ['control', 'location', 'routing', 'hosts', 'system'],
    accounts,
  )
  const services = objectOf(file['services'], 'services', wrong)
  const keysOf = (name: ServiceName): ServiceKeys => {
    const keys = objectOf(services[name], `services.${name}`, wrong)
    const [identityKey = '', busKey = ''] = texts(['identityKey', 'busKey'], keys)
    if (!isKeyText(identityKey)) {
      throw wrong(`services.${name}.identityKey is not 32 bytes in lower-case hex`)
    }
    return { identityKey, busKey }
  }
  return {
    domain,
    places: placesOf(objectOf(file['places'], 'places', wrong), wrong),
    ownerPublicKey,
    operator,
    accounts: { control, location, routing, hosts, system },
    services: {
      config: keysOf('config'),
      'location-resolver': keysOf('location-resolver'),
      'routing-policy': keysOf('routing-policy'),
      nats: keysOf('nats'),
    },
  }
}

function placesOf(
  places: Record<string, unknown>,
  wrong: (problem: string) => BrokenInputError,
): Places {
  const list = (name: string): readonly string[] => {
    const value = places[name]
    if (!Array.isArray(value) || !value.every((item) => typeof item === 'string')) {
      throw wrong(`places.${name} is no list of texts`)
    }
    return value
  }
  return {
    config: list('config'),
    enrolment: list('enrolment'),
    locationResolver: list('locationResolver'),
    routingPolicy: list('routingPolicy'),
    bus: list('bus'),
  }
}

function parseJson(text: string, wrong: (problem: string) => BrokenInputError): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw wrong(error instanceof Error ? error.message : String(error))
  }
}

function objectOf(
  value: unknown,
  what: string,
  wrong: (problem: string) => BrokenInputError,
): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>
  }
  throw wrong(`${what} is no object`)
}

function isKeyText(text: string): boolean {
  return /^[0-9a-f]{64}$/.test(text)
}
