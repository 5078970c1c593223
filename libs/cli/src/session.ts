import { AmbiguousNameError, EndpointNotFoundError } from '@weft/errors'
import type { Context, Endpoint, EndpointRef, Weft } from '@weft/sdk'
import { type EndpointWords, parseEndpointWords } from './arguments.ts'
import { type Io, type Paint, painter } from './io.ts'
import { type OutputFormat, render, type View } from './output.ts'

/** Options that every command has. */
export interface CommonOptions {
  readonly output: OutputFormat
  readonly tenant?: string
  /** One of the person's contexts. */
  readonly context?: string
}

/** One run of the command: what it was given and the client that it opens when it needs one. */
export class Session implements AsyncDisposable {
  readonly io: Io
  readonly paint: Paint
  /** For standard error. */
  readonly paintError: Paint
  readonly options: CommonOptions
  #weft: Weft | undefined
  #context: Context | undefined

  constructor(io: Io, options: CommonOptions) {
    this.io = io
    this.paint = painter(io, io.isTerminal)
    this.paintError = painter(io, io.isErrorTerminal)
    this.options = options
  }

  /** The client. The SDK is loaded here and not before: help and completion are answered without it. */
  async weft(): Promise<Weft> {
    if (this.#weft !== undefined) return this.#weft
    const { connect } = await import('@weft/sdk')
    this.#weft = connect({ context: await this.context() })
    return this.#weft
  }

  async context(): Promise<Context> {
    if (this.#context !== undefined) return this.#context
    const { findContext } = await import('@weft/sdk')
    this.#context = findContext(this.io.env, this.options.context)
    return this.#context
  }

  /** The tenant that is meant when none is named. */
  async tenant(): Promise<string> {
    return this.options.tenant ?? (await this.context()).tenant
  }

  /** Finds an endpoint by what the user typed; one that is named without its network is looked for in all of the tenant's. */
  async endpoint(text: string, network?: string): Promise<Endpoint> {
    const weft = await this.weft()
    const words = parseEndpointWords(text, await this.tenant(), network)
    return await weft.endpoints.get(await this.#refOf(weft, words))
  }

  async print(view: View): Promise<void> {
    this.io.stdout(await render(view, this.options.output, this.paint))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#weft?.[Symbol.asyncDispose]()
  }

  async #refOf(weft: Weft, { tenant, network, endpoint }: EndpointWords): Promise<EndpointRef> {
    if (network !== undefined) return { tenant, network, endpoint }
    const candidates: string[] = []
    for await (const candidate of weft.endpoints.list({ tenant })) {
      if (candidate.name === endpoint) candidates.push(candidate.network)
    }
    const [only, ...others] = candidates
    if (only === undefined) throw new EndpointNotFoundError({ endpoint })
    if (others.length === 0) return { tenant, network: only, endpoint }
    throw new AmbiguousNameError({
      kind: 'endpoint',
      name: endpoint,
      candidates: candidates.map((candidate) => `${candidate}/${endpoint}`),
    })
  }
}
