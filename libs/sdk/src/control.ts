import type { OwnCredentials } from '@weft/domain'
import { InternalError, InvalidArgumentError } from '@weft/errors'
import type { Credentials, Peer } from '@weft/identity'
import { AuditServiceService } from '@weft/proto/weftline/audit/v1/audit.ts'
import { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import { TenantLockServiceService } from '@weft/proto/weftline/config/v1/tenant_lock_service.ts'
import { type Client, connect, type ServiceDefinition } from '@weft/rpc'
import { type Context, controlOf } from './context.ts'

/** The control server. Identity and connection are opened at the first call: what asks hosts only needs neither. */
export class Control implements AsyncDisposable {
  readonly rpc: Client<typeof ConfigServiceService>
  readonly audit: Client<typeof AuditServiceService>
  readonly tenantLock: Client<typeof TenantLockServiceService>
  readonly #context: Context
  readonly #given: Credentials | undefined
  readonly #opened = new AsyncDisposableStack()
  #credentials: Promise<Credentials> | undefined
  /** Of config, as its certificate has it. */
  #serverKey: Uint8Array | undefined

  constructor(context: Context, credentials: Credentials | undefined) {
    this.#context = context
    this.#given = credentials
    this.rpc = this.#lazily(ConfigServiceService)
    this.audit = this.#lazily(AuditServiceService)
    this.tenantLock = this.#lazily(TenantLockServiceService)
  }

  /** The domain of whoever calls, as the own certificate has it: config is not asked. */
  async domain(): Promise<string> {
    return (await this.#own()).identity.domain
  }

  /** The identity key of config (Ed25519, 32 bytes), by the certificate that it shows to this client. */
  async serverKey(): Promise<Uint8Array> {
    if (this.#serverKey === undefined) await this.rpc.getServerInfo({})
    if (this.#serverKey !== undefined) return this.#serverKey
    throw new InternalError('config answered without having shown a certificate')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opened.disposeAsync()
  }

  /** Methods with one request and one answer, which all of these are. */
  #lazily<S extends ServiceDefinition>(definition: S): Client<S> {
    let opening: Promise<Client<S>> | undefined
    const call = (name: string) => async (request: never, options: never) => {
      opening ??= this.#connect(definition)
      const client = (await opening) as unknown as { readonly [name: string]: AnyCall }
      return await client[name]?.(request, options)
    }
    const calls = Object.keys(definition).map((name) => [name, call(name)])
    return Object.fromEntries(calls) as Client<S>
  }

  async #connect<S extends ServiceDefinition>(definition: S): Promise<Client<S>> {
    const target = controlOf(this.#context)
    const credentials = await this.#own()
    const security = {
      kind: 'mutual-tls',
      credentials,
      peer: 'config',
      onPeer: ({ publicKey }: Peer) => {
        this.#serverKey = publicKey
      },
    } as const
    return this.#opened.use(connect(target, definition, { security }))
  }

  #own(): Promise<Credentials> {
    this.#credentials ??= this.#given ? Promise.resolve(this.#given) : this.#openIdentity()
    return this.#credentials
  }

  async #openIdentity(): Promise<OwnCredentials> {
    const { openCredentials } = await import('@weft/domain')
    const own = this.#opened.use(await openCredentials({ folder: identityOf(this.#context) }))
    const { problem } = own
    // Nothing could be asked anyway, and this says why.
    if (problem?.code === 'clock-wrong') throw problem
    if (own.tls.notAfter.getTime() <= Date.now()) await own.renewNow()
    return own
  }
}

type AnyCall = (request: never, options: never) => Promise<unknown>

/** The identity folder. @throws InvalidArgumentError if none is known */
export function identityOf({ identity }: Context): string {
  if (identity !== undefined) return identity
  throw new InvalidArgumentError({
    field: 'WEFT_IDENTITY',
    problem: 'it is not known here who you are',
    remedy: 'log in (weft login), or name the folder of an identity: WEFT_IDENTITY=DIR',
  })
}
