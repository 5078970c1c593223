import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { PermissionDeniedError, UnauthenticatedError, type WeftError } from '@weft/errors'
import { type Identity, type Peer, serviceNames } from '@weft/identity'
import { AuditServiceService } from '@weft/proto/weftline/audit/v1/audit.ts'
import { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  CertificateServiceService,
  EnrolmentServiceService,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import { type Grant, Role } from '@weft/proto/weftline/config/v1/records.ts'
import { TenantLockServiceService } from '@weft/proto/weftline/config/v1/tenant_lock_service.ts'
import { LocationServiceService } from '@weft/proto/weftline/location/v1/location.ts'
import { RoutingServiceService } from '@weft/proto/weftline/routing/v1/routing.ts'
import {
  type AccessRule,
  type AccessTable,
  auditAccess,
  authoriser,
  type CallToJudge,
  certificateAccess,
  configAccess,
  enrolmentAccess,
  healthAccess,
  locationAccess,
  reflectionAccess,
  routingAccess,
  tenantLockAccess,
  type World,
} from '../src/index.ts'

/*
 * Who may do what, in words of its own, against every rpc that the contracts have. A line is
 *
 *   method | whole domain: owner operator subscriber auditor | in one tenant: the same | host | service
 *
 * with `+` allowed, `-` denied; for roles in one tenant besides: `t` allowed for that tenant and denied for any other, known or
 * not; `f` allowed, seeing that tenant alone. For hosts: `s` for itself alone, `c` for what it may carry.
 */
const EXPECTED = `
  config.ConfigService/CreateTenant        | + + - - | - - - - | - | -
  config.ConfigService/GetTenant           | + + + + | t t t t | - | -
  config.ConfigService/ListTenants         | + + + + | f f f f | - | -
  config.ConfigService/DeleteTenant        | + + - - | - - - - | - | -
  config.ConfigService/CreateZone          | + + - - | - - - - | - | -
  config.ConfigService/GetZone             | + + + + | f f f f | - | -
  config.ConfigService/ListZones           | + + + + | f f f f | - | -
  config.ConfigService/UpdateZone          | + + - - | - - - - | - | -
  config.ConfigService/DeleteZone          | + + - - | - - - - | - | -
  config.ConfigService/CreateHost          | + + - - | - - - - | - | -
  config.ConfigService/GetHost             | + + + + | f f f f | s | -
  config.ConfigService/ListHosts           | + + + + | f f f f | - | -
  config.ConfigService/UpdateHost          | + + - - | - - - - | - | -
  config.ConfigService/DeleteHost          | + + - - | - - - - | - | -
  config.ConfigService/ListHostConnections | + + - + | - - - - | - | -
  config.ConfigService/CreateNetwork       | + + + - | t t t - | - | -
  config.ConfigService/GetNetwork          | + + + + | t t t t | - | -
  config.ConfigService/ListNetworks        | + + + + | t t t t | - | -
  config.ConfigService/DeleteNetwork       | + + + - | t t t - | - | -
  config.ConfigService/CreateEndpoint      | + + + - | t t t - | - | -
  config.ConfigService/GetEndpoint         | + + + + | t t t t | c | -
  config.ConfigService/ListEndpoints       | + + + + | t t t t | - | -
  config.ConfigService/DeleteEndpoint      | + + + - | t t t - | - | -
  config.ConfigService/AssignEndpoint      | - - - - | - - - - | sc | -
  config.ConfigService/ReleaseEndpoint     | - - - - | - - - - | s | -
  config.ConfigService/CreateToken         | + + - - | - - - - | - | -
  config.ConfigService/ListTokens          | + + - + | - - - - | - | -
  config.ConfigService/RevokeToken         | + + - - | - - - - | - | -
  config.ConfigService/RevokeHost          | + + - - | - - - - | - | -
  config.ConfigService/CreateUser          | + - - - | - - - - | - | -
  config.ConfigService/ListUsers           | + - - + | - - - - | - | -
  config.ConfigService/UpdateUser          | + - - - | - - - - | - | -
  config.ConfigService/DeleteUser          | + - - - | - - - - | - | -
  config.ConfigService/CreateLoginCode     | + - - - | - - - - | - | -
  config.ConfigService/GetServerInfo       | + + + + | + + + + | + | -
  config.CertificateService/Renew          | + + + + | + + + + | + | +
  config.CertificateService/RotateKeys     | - - - - | - - - - | + | -
  config.CertificateService/Leave          | - - - - | - - - - | + | -
  config.TenantLockService/PutStatement    | + + - - | t t - - | - | -
  config.TenantLockService/ListStatements  | + + + + | t t t t | - | -
  config.TenantLockService/ListProposals   | + + - - | t t - - | - | -
  config.TenantLockService/DeleteStatement | + + - - | t t - - | - | -
  audit.AuditService/ListEntries           | + - - + | - - - - | - | -
  audit.AuditService/ListWriters           | + - - + | - - - - | - | -
  location.LocationService/Resolve         | + + + + | t t t t | c | -
  location.LocationService/Locate          | + + + + | f f f f | - | -
  location.LocationService/Watch           | + + + + | t t t t | - | -
  routing.RoutingService/Decide            | + + + + | t t t t | c | -
  routing.RoutingService/ListRules         | + + + + | f f f f | - | -
  grpc.health.v1.Health/Check              | + + + + | + + + + | + | +
  grpc.health.v1.Health/Watch              | + + + + | + + + + | + | +
  grpc.reflection/ServerReflectionInfo     | + + - - | - - - - | - | -
`

/** Tenant, network and endpoint have the same number here: the caller's is 7, another's 8, and 9 is none. */
const OWN = 7
const OTHER = 8
const UNKNOWN = 9
const ROLES = [Role.ROLE_OWNER, Role.ROLE_OPERATOR, Role.ROLE_SUBSCRIBER, Role.ROLE_AUDITOR]
const HOST = 5
const OTHER_HOST = 6

const methods = new Map([
  ...methodsOf(ConfigServiceService, configAccess),
  ...methodsOf(CertificateServiceService, certificateAccess),
  ...methodsOf(TenantLockServiceService, tenantLockAccess),
  ...methodsOf(AuditServiceService, auditAccess),
  ...methodsOf(LocationServiceService, locationAccess),
  ...methodsOf(RoutingServiceService, routingAccess),
  ['grpc.health.v1.Health/Check', { rule: healthAccess.check }] as const,
  ['grpc.health.v1.Health/Watch', { rule: healthAccess.watch }] as const,
  [
    'grpc.reflection/ServerReflectionInfo',
    { rule: reflectionAccess.serverReflectionInfo },
  ] as const,
])
const lines = EXPECTED.trim()
  .split('\n')
  .map((line) => line.split('|').map((part) => part.trim()))

describe('every rpc', () => {
  test('has a line here, and every line an rpc', () => {
    assert.deepEqual(lines.map(([name = '']) => name).sort(), [...methods.keys()].sort())
  })

  test('of the contracts is one of these, or served on a unix socket or to those who enrol', async () => {
    const others = ['forwarder.ForwarderService/', 'shuttle.']
    const contracts = (await pathsOfContracts()).map(shortened)
    const judged = contracts.filter((path) => !others.some((prefix) => path.startsWith(prefix)))
    const enrolment = Object.values(EnrolmentServiceService).map(({ path }) => shortened(path))
    const known = [...methods.keys(), ...enrolment]
    assert.deepEqual(
      judged.filter((path) => !known.includes(path)),
      [],
    )
    assert(judged.length >= 40 && contracts.length > judged.length)
  })

  for (const [name = '', ofDomain = '', ofTenant = '', host = '', service = ''] of lines) {
    test(`${name} is allowed to whom it should`, () => {
      const { rule } = methods.get(name) ?? assert.fail()
      const call = { rule, name }
      for (const [index, expected] of ofDomain.split(' ').entries()) {
        for (const tenant of [OWN, OTHER, UNKNOWN]) {
          const grants = [{ tenantId: 0, role: ROLES[index] ?? Role.ROLE_UNSPECIFIED }]
          const seen = expected === '+' ? ['all', 'none'] : ['denied']
          const scope = judge({ ...call, tenant, grants, caller: user })
          assert(seen.includes(scope), `domain role ${index}, tenant ${tenant}: ${scope}`)
        }
      }
      for (const [index, expected] of ofTenant.split(' ').entries()) {
        const grants = [{ tenantId: OWN, role: ROLES[index] ?? Role.ROLE_UNSPECIFIED }]
        for (const tenant of [OWN, OTHER, UNKNOWN]) {
          const scope = judge({ ...call, tenant, grants, caller: user })
          const wanted = expectedOfTenant(expected, tenant)
          assert.equal(scope, wanted, `tenant role ${index}, tenant ${tenant}`)
        }
      }
      for (const tenant of [OWN, OTHER]) {
        for (const hostId of [HOST, OTHER_HOST]) {
          const isAllowed =
            host !== '-' &&
            (!host.includes('s') || hostId === HOST) &&
            (!host.includes('c') || tenant === OWN)
          const scope = judge({ ...call, tenant, hostId, caller: thisHost })
          assert.equal(scope, isAllowed ? 'none' : 'denied', `host ${hostId}, tenant ${tenant}`)
        }
      }
      for (const id of serviceNames) {
        const scope = judge({ ...call, tenant: OWN, caller: { domain, kind: 'service', id } })
        assert.equal(scope, service === '+' ? 'all' : 'denied', id)
      }
    })

    test(`${name} is denied to users without a role, with an unknown one, and to nobody known`, () => {
      const { rule } = methods.get(name) ?? assert.fail()
      const takesRole = typeof rule.users === 'object'
      for (const role of [Role.ROLE_UNSPECIFIED, Role.UNRECOGNIZED, 77 as Role]) {
        for (const tenantId of [0, OWN]) {
          const grants = [{ tenantId, role }]
          const scope = judge({ rule, name, tenant: OWN, grants, caller: user })
          if (takesRole) assert.equal(scope, 'denied')
        }
      }
      assert.equal(judge({ rule, name, tenant: OWN, caller: undefined }), 'unauthenticated')
    })
  }
})

describe('a rule', () => {
  test('for those who enrol asks for nothing and shows no tenant', () => {
    const rules: readonly AccessRule<never>[] = Object.values(enrolmentAccess)
    assert.equal(rules.length, Object.keys(EnrolmentServiceService).length)
    for (const rule of rules) {
      assert.equal(judge({ rule, name: 'Join', tenant: OWN, caller: undefined }), 'none')
    }
  })

  test('that a table lacks does not build', () => {
    const { createTenant, ...others } = configAccess
    // @ts-expect-error -- CreateTenant has no rule
    const incomplete: AccessTable<ConfigServiceService> = others
    const complete: AccessTable<ConfigServiceService> = { ...others, createTenant }
    assert.notDeepEqual(Object.keys(incomplete).length, Object.keys(complete).length)
  })

  test('of several tenants at once takes the whole domain', () => {
    const request = { queries: [{ sourceEndpointId: OWN, targetEndpointId: OTHER }] }
    const judgeAs = (grants: readonly Pick<Grant, 'tenantId' | 'role'>[]) =>
      outcome({ rule: locationAccess.resolve, request, grants, caller: user })
    const role = Role.ROLE_SUBSCRIBER
    const both = [OWN, OTHER].map((tenantId) => ({ tenantId, role }))
    assert.equal(judgeAs(both), 'denied')
    assert.equal(judgeAs([{ tenantId: 0, role }]), 'all')
  })

  test('of no tenant by name asks for all, and shows those of the caller', () => {
    const grants = [{ tenantId: OWN, role: Role.ROLE_SUBSCRIBER }]
    for (const [rule, request] of [
      [configAccess.listNetworks, { tenant: '' }],
      [configAccess.listEndpoints, {}],
      [locationAccess.watch, { networkId: 0 }],
    ] as const) {
      assert.equal(outcome({ rule, request, grants, caller: user }), String(OWN))
    }
  })

  test('of what is not there any more does not cost a host the rest of its answers', () => {
    const queries = [
      { sourceEndpointId: OWN, targetEndpointId: OWN },
      { sourceEndpointId: OWN, targetEndpointId: UNKNOWN },
    ]
    const { resolve } = locationAccess
    assert.equal(outcome({ rule: resolve, request: { queries }, caller: thisHost }), 'none')
  })

  test('for two grants shows the tenants of those that are enough', () => {
    const scope = outcome({
      rule: auditAccess.listEntries,
      request: {},
      grants: [{ tenantId: OWN, role: Role.ROLE_AUDITOR }],
      caller: user,
    })
    assert.equal(scope, 'denied')
    const grants = [
      { tenantId: OWN, role: Role.ROLE_SUBSCRIBER },
      { tenantId: OTHER, role: Role.ROLE_AUDITOR },
    ]
    const list = { rule: configAccess.listTenants, request: {}, caller: user }
    assert.equal(outcome({ ...list, grants }), `${OWN},${OTHER}`)
    const create = { rule: configAccess.createNetwork, caller: user, grants }
    assert.equal(outcome({ ...create, request: { name: { tenant: `t${OWN}` } } }), `${OWN}`)
    assert.equal(outcome({ ...create, request: { name: { tenant: `t${OTHER}` } } }), 'denied')
  })

  test('that denies says what, to whom and which role would do, and is told of once', () => {
    const denials: [CallToJudge, WeftError][] = []
    const authorise = authoriser({
      world: worldWith([]),
      onDenied: (call, reason) => denials.push([call, reason]),
    })
    const call: CallToJudge = {
      method: '/weftline.config.v1.ConfigService/CreateTenant',
      caller: peerOf(user),
      peer: '10.0.0.1:9',
      request: {},
      rule: configAccess.createTenant,
    }
    const message =
      'ConfigService/CreateTenant by spiffe://test.weft/user/3 is not allowed: it takes the role operator in the whole domain'
    assert.throws(() => authorise(call), { message })
    assert.deepEqual(
      denials.map(([denied, reason]) => [denied, reason.message]),
      [[call, message]],
    )
  })
})

const domain = 'test.weft'
const user: Identity = { domain, kind: 'user', id: 3 }
const thisHost: Identity = { domain, kind: 'host', id: HOST }

interface Asked {
  readonly rule: AccessRule<never>
  readonly grants?: readonly Pick<Grant, 'tenantId' | 'role'>[]
  readonly caller: Identity | undefined
}

/** Asks about a method in a tenant; `all`, `none`, the tenants that are seen, `denied` or `unauthenticated`. */
function judge({
  tenant,
  hostId = HOST,
  ...asked
}: Asked & { readonly name: string; readonly tenant: number; readonly hostId?: number }): string {
  return outcome({ ...asked, request: requestFor(asked.name, tenant, hostId) })
}

function outcome({
  rule,
  grants = [],
  caller,
  request,
}: Asked & { readonly request: unknown }): string {
  try {
    const scope = authoriser({ world: worldWith(grants) })({
      method: '/weftline.x.v1.Service/Method',
      caller: caller && peerOf(caller),
      peer: '10.0.0.1:9',
      request,
      rule,
    })
    if (scope === 'all') return 'all'
    return scope.size === 0 ? 'none' : [...scope].join()
  } catch (error) {
    if (error instanceof PermissionDeniedError) return 'denied'
    if (error instanceof UnauthenticatedError) return 'unauthenticated'
    throw error
  }
}

function expectedOfTenant(expected: string, tenant: number): string {
  switch (expected) {
    case '+':
      return 'none'
    case 'f':
      return String(OWN)
    case 't':
      return tenant === OWN ? String(OWN) : 'denied'
    default:
      return 'denied'
  }
}

/** A request of any method with all the ways in which one names a tenant or what is in it. */
function requestFor(method: string, tenant: number, hostId: number): unknown {
  const named = { tenant: `t${tenant}`, network: 'n', endpoint: 'e' }
  const isOfHosts = method.endsWith('Host')
  const key = isOfHosts ? { $case: 'id', value: hostId } : { $case: 'name', value: named }
  return {
    key: method.endsWith('GetEndpoint') ? { $case: 'id', value: tenant } : key,
    name: /Tenant|Zone|Host|User/.test(method) ? named.tenant : named,
    tenant: named.tenant,
    network: named,
    networkId: tenant,
    endpointId: tenant,
    endpointIds: [tenant],
    hostId,
    queries: [{ sourceEndpointId: tenant, targetEndpointId: tenant }],
    connections: [{ networkId: tenant }],
  }
}

function worldWith(grants: readonly Pick<Grant, 'tenantId' | 'role'>[]): World {
  const known = (id: number): number | undefined => ([OWN, OTHER].includes(id) ? id : undefined)
  return {
    tenantIdOf: (name) => known(Number(name.slice(1))),
    tenantOfNetwork: known,
    tenantOfEndpoint: known,
    grantsOf: (userId) => (userId === user.id ? grants : []),
    mayCarry: (hostId, tenantId) => hostId === HOST && tenantId === OWN,
  }
}

function peerOf(identity: Identity): Peer {
  return { identity, publicKey: Buffer.alloc(32), notAfter: new Date(0), serialNumber: '01' }
}

/** Every rpc of a service under the name that it has in `EXPECTED`, with its rule. */
function methodsOf<S extends { readonly [name: string]: { readonly path: string } }>(
  definition: S,
  table: { readonly [K in keyof S]: AccessRule<never> },
): [string, { readonly rule: AccessRule<never> }][] {
  return Object.entries(definition).map(([name, { path }]) => {
    return [shortened(path), { rule: table[name] ?? assert.fail(`${path} has no rule`) }]
  })
}

/** `/weftline.config.v1.ConfigService/GetHost` as `config.ConfigService/GetHost`. */
function shortened(path: string): string {
  return path.replace(/^\/weftline\.([a-z]+)\.v1\./, '$1.')
}

/** Full names of all methods for which code was generated, whoever may use it. */
async function pathsOfContracts(): Promise<string[]> {
  const folder = dirname(fileURLToPath(import.meta.resolve('@weft/proto/image.binpb')))
  const files = (await readdir(folder, { recursive: true })).filter((name) => name.endsWith('.ts'))
  const texts = await Promise.all(files.map((name) => readFile(join(folder, name), 'utf8')))
  return texts.flatMap((text) =>
    Array.from(text.matchAll(/^ {4}path: "(\/[^"]+)"/gm), ([, path = '']) => path),
  )
}
