import { type ChannelOptions, experimental } from '@grpc/grpc-js'
import { CONNECT_MAX_MS } from './limits.ts'

const SCHEME = 'weft-tcp'
const DIALS_OPTION = 'weft.dials'

/**
 * The TCP connections that gRPC opens for one channel, each within `CONNECT_MAX_MS`. gRPC leaves the limit to the kernel, which
 * asks ever more seldom (tcp(7), tcp_syn_retries): after ten minutes without a network it would be up to a minute before
 * anybody notices that it is back. The limit is on the socket, so that none is left behind for each try.
 */
export class Dials {
  readonly #limits = new Set<NodeJS.Timeout>()

  /** For one socket: aborted if no connection of this channel is there in time. */
  begin(): AbortSignal {
    const controller = new AbortController()
    // Not the same for all: who lost the way in the same moment does not try again in the same moment.
    const limitMs = CONNECT_MAX_MS * (0.5 + Math.random() / 2)
    const limit = setTimeout(() => {
      this.#limits.delete(limit)
      controller.abort()
    }, limitMs)
    limit.unref()
    this.#limits.add(limit)
    return controller.signal
  }

  /** One connection is there; a channel needs no other. */
  succeeded(): void {
    for (const limit of this.#limits) clearTimeout(limit)
    this.#limits.clear()
  }

  /** What a channel to `target` (`HOST:PORT`, several with commas between them, or `unix:/PATH`) is made with. */
  channelTo(target: string): { readonly target: string; readonly options: ChannelOptions } {
    if (target.startsWith('unix:')) return { target, options: {} }
    return { target: `${SCHEME}:${target}`, options: { [DIALS_OPTION]: this } }
  }
}

/** How a channel says that a connection took too long, instead of that its socket was aborted. */
export function withReason(problem: string): string {
  return problem.replace(/(?:AbortError: )?The operation was aborted/, 'no TCP connection in time')
}

/**
 * Resolves each place as gRPC does, in their order: the channel stays with the first that answers. Each address gets a signal
 * of its own for each socket: gRPC hands it as it is to `net.connect`, where `signal` is one of the options.
 */
class BoundedResolver implements experimental.Resolver {
  readonly #resolvers: readonly experimental.Resolver[]

  constructor(
    { path }: experimental.GrpcUri,
    listener: experimental.ResolverListener,
    options: ChannelOptions,
  ) {
    const dials = options[DIALS_OPTION] as Dials
    const places = path.split(',')
    const found = new Map<number, Parameters<experimental.ResolverListener>[0]>()
    this.#resolvers = places.map((place, index) =>
      experimental.createResolver(
        { scheme: 'dns', path: place },
        (endpoints, ...rest) => {
          found.set(index, endpoints)
          // A place whose name is not resolved yet is not waited for: it joins the others when it is.
          const known = places.flatMap((_, at) => {
            const one = found.get(at)
            return one?.ok === true ? one.value.map(bounded) : []
          })
          return listener(known.length > 0 ? { ok: true, value: known } : endpoints, ...rest)
        },
        options,
      ),
    )

    function bounded({ addresses }: experimental.Endpoint): experimental.Endpoint {
      return {
        addresses: addresses.map((address) => ({
          ...address,
          get signal() {
            return dials.begin()
          },
        })),
      }
    }
  }

  updateResolution(): void {
    for (const resolver of this.#resolvers) resolver.updateResolution()
  }

  destroy(): void {
    for (const resolver of this.#resolvers) resolver.destroy()
  }

  static getDefaultAuthority({ path }: experimental.GrpcUri): string {
    return path.split(',', 1)[0] ?? path
  }
}

experimental.registerResolver(SCHEME, BoundedResolver)
