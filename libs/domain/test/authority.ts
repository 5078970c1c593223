import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { authoriser, certificateAccess, enrolmentAccess } from '@weft/access'
import { userJwt } from '@weft/bus/operator'
import { CertificateRefusedError, TokenRefusedError, UnavailableError } from '@weft/errors'
import {
  dersOfPem,
  identityKeyFromPem,
  openStatement,
  publicKeyOf,
  verifyStatement,
} from '@weft/identity'
import { type Authority, issueLeaf, leafValidity, openAuthority } from '@weft/identity/authority'
import {
  CertificateServiceService,
  EnrolmentServiceService,
  JoinStatement,
  LoginStatement,
  RenewalStatement,
  RotationStatement,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import {
  type Credentials as CredentialsMessage,
  PublicKeys,
} from '@weft/proto/weftline/identity/v1/identity.ts'
import { implement, serve } from '@weft/rpc'
import { createLogger } from '@weft/telemetry'
import { accountSeedFiles, authorityFiles, domainFolders, openCredentials } from '../src/index.ts'

export const HOST_ID = 7
export const TOKEN: string = `weft-join-v1.5.${Buffer.alloc(32, 7).toString('base64url')}`
export const CODE: string = `weft-login-v1.6.${Buffer.alloc(32, 8).toString('base64url')}`

/** In config's place: knows one host and one user, and one token for each. */
export interface TestAuthority extends AsyncDisposable {
  /** What was asked, in order: the names of methods. */
  readonly asked: string[]
  /** The keys of the host, as they are known to it. */
  hostKeys: PublicKeys | undefined
  /** Does what is asked, and loses this many answers. */
  answersToLose: number
  /** As if the key of every caller were void. */
  refusesRenewals: boolean
  /** Clock of the authority, in milliseconds since 1970, where it is not the real one. */
  now: () => number
}

/** Serves enrolment and certificates for a domain that `createDomain` made, at the sockets that its places name. */
export async function startAuthority(folder: string, at: Sockets): Promise<TestAuthority> {
  const path = (name: string): string => join(folder, domainFolders.authority, name)
  const [intermediate = Buffer.alloc(0)] = dersOfPem(
    await readFile(path(authorityFiles.intermediate), 'utf8'),
  )
  const issuer: Authority = openAuthority({
    certificate: intermediate,
    key: identityKeyFromPem(await readFile(path(authorityFiles.intermediateKey), 'utf8')),
  })
  const root = dersOfPem(await readFile(path(authorityFiles.root), 'utf8'))[0] ?? Buffer.alloc(0)
  const hostsSeed = await readFile(path(accountSeedFiles.hosts))
  const directoryKey = identityKeyFromPem(await readFile(path(authorityFiles.directoryKey), 'utf8'))
  const credentials = await openCredentials({
    folder: join(folder, domainFolders.services, 'config'),
    renew: 'watch',
  })
  const state = {
    asked: [] as string[],
    hostKeys: undefined as PublicKeys | undefined,
    answersToLose: 0,
    refusesRenewals: false,
    now: Date.now,
  }
  const issue = (kind: 'host' | 'user', id: number, keys: PublicKeys): CredentialsMessage => {
    const now = new Date(state.now())
    const { notBefore, notAfter } = leafValidity({ authority: issuer, now })
    const identity = { domain: issuer.domain, kind, id }
    const publicKey = keys.identity
    const isHost = kind === 'host'
    return {
      domain: issuer.domain,
      certificates: [issueLeaf({ authority: issuer, identity, publicKey, notBefore, notAfter })],
      authorities: [issuer.certificate, root],
      busJwt: isHost
        ? userJwt({
            account: hostsSeed,
            publicKey: keys.bus,
            principal: { kind: 'host', id },
            now,
            expiresAt: notAfter,
          })
        : '',
      directoryKey: publicKeyOf(directoryKey),
      places: {
        config: [at.config],
        enrolment: [at.enrolment],
        locationResolver: [],
        routingPolicy: [],
        bus: [],
      },
      hostId: isHost ? id : 0,
      hostName: isHost ? 'alpha' : '',
      horizonUnixMs: 0n,
    }
  }
  const answer = <T>(method: string, made: () => T): T => {
    state.asked.push(method)
    const done = made()
    if (state.answersToLose === 0) return done
    state.answersToLose--
    throw new UnavailableError({ service: 'test', address: 'here' })
  }
  const hostCredentials = (): CredentialsMessage => {
    if (state.hostKeys === undefined)
      throw new TokenRefusedError({ reason: 'unknown', kind: 'join' })
    return issue('host', HOST_ID, state.hostKeys)
  }
  const nowUnixMs = (): bigint => BigInt(state.now())
  const enrolment = implement(
    EnrolmentServiceService,
    {
      join: async ({ statement }) =>
        answer('join', () => {
          const { token, keys = PublicKeys.create() } = openStatement(
            'join',
            statement,
            JoinStatement,
          )
          if (token !== TOKEN) throw new TokenRefusedError({ reason: 'unknown', kind: 'join' })
          verifyStatement('join', statement, keys.identity)
          if (state.hostKeys !== undefined && !state.hostKeys.identity.equals(keys.identity)) {
            throw new TokenRefusedError({ reason: 'used', kind: 'join' })
          }
          state.hostKeys = keys
          return { credentials: hostCredentials(), nowUnixMs: nowUnixMs() }
        }),
      login: async ({ statement }) =>
        answer('login', () => {
          const { code, keys = PublicKeys.create() } = openStatement(
            'login',
            statement,
            LoginStatement,
          )
          if (code !== CODE) throw new TokenRefusedError({ reason: 'unknown', kind: 'login' })
          return { credentials: issue('user', 3, keys), user: 'ada', nowUnixMs: nowUnixMs() }
        }),
      renewExpired: async ({ statement }) =>
        answer('renewExpired', () => {
          openStatement('renewal', statement, RenewalStatement, state.hostKeys?.identity)
          return { credentials: hostCredentials(), nowUnixMs: nowUnixMs() }
        }),
    },
    enrolmentAccess,
  )
  const certificates = implement(
    CertificateServiceService,
    {
      renew: async () =>
        answer('renew', () => {
          if (state.refusesRenewals) throw new CertificateRefusedError({ reason: 'revoked' })
          return { credentials: hostCredentials() }
        }),
      rotateKeys: async ({ statement }) =>
        answer('rotateKeys', () => {
          const { newKeys } = openStatement('rotation', statement, RotationStatement)
          state.hostKeys = openStatement('rotation-new', newKeys, PublicKeys)
          return { credentials: hostCredentials() }
        }),
      leave: async () => answer('leave', () => ({ left: true })),
    },
    certificateAccess,
  )
  const authorise = authoriser({
    world: {
      tenantIdOf: () => undefined,
      tenantOfNetwork: () => undefined,
      tenantOfEndpoint: () => undefined,
      grantsOf: () => [],
      mayCarry: () => false,
    },
  })
  const log = createLogger({ service: 'test', level: 'silent' })
  const servers = new AsyncDisposableStack()
  servers.use(credentials)
  servers.use(
    await serve({
      listen: [at.enrolment],
      services: [enrolment],
      log,
      security: { kind: 'server-tls', credentials, authorise },
    }),
  )
  servers.use(
    await serve({
      listen: [at.config],
      services: [certificates],
      log,
      security: { kind: 'mutual-tls', credentials, authorise },
    }),
  )
  return Object.assign(state, { [Symbol.asyncDispose]: () => servers.disposeAsync() })
}

export interface Sockets {
  readonly config: string
  readonly enrolment: string
}
