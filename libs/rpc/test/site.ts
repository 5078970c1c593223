import { type AccessTable, authoriser, type World } from '@weft/access'
import { type Credentials, serviceNames } from '@weft/identity'
import { Role } from '@weft/proto/weftline/config/v1/records.ts'
import { createLogger, type Logger } from '@weft/telemetry'
import { type TestCredentials, type TestDomain, testDomain } from '@weft/testing'
import {
  type Client,
  type ClientSecurity,
  connect,
  type Handlers,
  type Implementation,
  implement,
  type ServeOptions,
  type Server,
  type ServerSecurity,
  serve,
} from '../src/index.ts'
import { Echo, type EchoClient } from './echo.ts'

export const log: Logger = createLogger({ service: 'test', level: 'silent' })

/** One domain for all tests of a file: `config` serves, user 1 runs the domain. */
export const domain: TestDomain = testDomain()
export const server: TestCredentials = domain.credentials({ kind: 'service', id: 'config' })
export const owner: TestCredentials = domain.credentials({ kind: 'user', id: 1 })

/** Nobody owns anything but user 1, who owns all. */
export const world: World = {
  tenantIdOf: () => undefined,
  tenantOfNetwork: () => undefined,
  tenantOfEndpoint: () => undefined,
  grantsOf: (userId) => (userId === 1 ? [{ tenantId: 0, role: Role.ROLE_OWNER }] : []),
  mayCarry: () => false,
}

export const serverSecurity: ServerSecurity = mutual(server)
export const clientSecurity: ClientSecurity = as(owner)

export function mutual(credentials: Credentials): ServerSecurity {
  return { kind: 'mutual-tls', credentials, authorise: authoriser({ world }) }
}

/** A client that wants `config`. */
export function as(credentials: Credentials): ClientSecurity {
  return { kind: 'mutual-tls', credentials, peer: 'config' }
}

const anybody = { services: serviceNames, hosts: 'any', users: 'any' } as const
export const echoAccess: AccessTable<typeof Echo> = {
  one: anybody,
  collect: anybody,
  split: anybody,
  each: anybody,
}

const echoHandlers: Handlers<typeof Echo> = {
  one: async (request) => `one ${request}`,
  collect: async (requests) => (await all(requests)).join(','),
  split: async function* (request) {
    yield* request.split(',')
  },
  each: async function* (requests) {
    for await (const request of requests) yield `each ${request}`
  },
}

export function echoWith(
  handlers: Partial<Handlers<typeof Echo>>,
  access: AccessTable<typeof Echo> = echoAccess,
): Implementation {
  return implement(Echo, { ...echoHandlers, ...handlers }, access)
}

export interface EchoSite extends AsyncDisposable {
  readonly client: EchoClient
  readonly server: Server
  readonly address: string
}

export async function serveEcho(
  handlers: Partial<Handlers<typeof Echo>>,
  options: Partial<ServeOptions> = {},
  security: ClientSecurity = clientSecurity,
): Promise<EchoSite> {
  const services = [echoWith(handlers)]
  const listen = ['127.0.0.1:0']
  const served = await serve({ listen, services, log, security: serverSecurity, ...options })
  const address = served.addresses[0] ?? ''
  const client: Client<typeof Echo> = connect(address, Echo, { security })
  return {
    client,
    server: served,
    address,
    async [Symbol.asyncDispose]() {
      await client[Symbol.asyncDispose]()
      await served[Symbol.asyncDispose]()
    },
  }
}

export async function* iterate<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items
}

export async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const item of items) found.push(item)
  return found
}
