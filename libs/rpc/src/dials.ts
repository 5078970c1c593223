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

  /** What a channel to `target` (`HOST:PORT` or `unix:/PATH`) is made with. */
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
 * Resolves as gRPC does, and gives each address a signal of its own for each socket: gRPC hands the address as it is to
 * `net.connect`, where `signal` is one of the options.
 */
class BoundedResolver implements experimental.Resolver {
  readonly #resolver: experimental.Resolver

  constructor(
    { path }: experimental.GrpcUri,
    listener: experimental.ResolverListener,
    options: ChannelOptions,
  ) {
    const dials = options[DIALS_OPTION] as Dials
    this.#resolver = experimental.createResolver(
      { scheme: 'dns', path },
      (endpoints, ...rest) =>
        listener(
          endpoints.ok ? { ok: true, value: endpoints.value.map(bounded) } : endpoints,
          ...rest,
        ),
      options,
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
    this.#resolver.updateResolution()
  }

  destroy(): void {
    this.#resolver.destroy()
  }

  static getDefaultAuthority({ path }: experimental.GrpcUri): string {
    return path
  }
}

experimental.registerResolver(SCHEME, BoundedResolver)
