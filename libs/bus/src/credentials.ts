import type { NodeConnectionOptions } from '@nats-io/transport-node'

/**
 * The one place that decides as whom a process speaks to NATS. Today servers listen on a management network and ask for no
 * credentials; keys and TLS go into this object, and nowhere else.
 */
export function busCredentials(): Partial<NodeConnectionOptions> {
  return {}
}
