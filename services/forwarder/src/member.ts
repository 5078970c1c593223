import { hasIdentity, type OwnCredentials, openCredentials, waitForIdentity } from '@weft/domain'
import { InvalidConfigError, NotEnrolledError } from '@weft/errors'
import { type Credentials } from '@weft/identity'
import type { ServiceContext } from '@weft/service'
import type { Config } from './config.ts'
import type { Events } from './events.ts'

/** This host as a member of its domain: what joining gave it. */
export type Member = Credentials &
  Pick<OwnCredentials, 'hostName' | 'places' | 'horizon' | 'noteRevocations' | 'tunnelKey'>

/** The addresses of the control plane; those of replicas with commas between them. */
export interface Places {
  readonly nats: readonly string[]
  readonly config: string
  readonly resolver: string
  readonly policy: string
}

/**
 * Opens the identity of this host; says so if it has not joined, and waits until it has. Throws what openCredentials
 * throws, and AbortError by the signal.
 */
export async function openMember(
  { identityFolder: folder }: Config,
  { log, signal }: ServiceContext,
  events: Events,
): Promise<OwnCredentials> {
  if (!(await hasIdentity(folder))) {
    events.notEnrolled(folder, new NotEnrolledError({ folder, who: 'host' }))
    await waitForIdentity(folder, signal)
  }
  return openCredentials({ folder, log })
}

/** The number of the host that it is. Throws `InvalidConfigError` for somebody else's identity. */
export function hostIdOf({ identity }: Credentials, folder: string): number {
  if (identity.kind === 'host') return identity.id
  throw new InvalidConfigError([
    `WEFT_IDENTITY_DIR=${folder} is the identity of ${identity.kind} ${identity.id}, not of a host`,
  ])
}

/** Where the environment says, else where the domain says: hosts begin at different replicas of a service, by their ids. */
export function placesOf(config: Config, { places }: Member, hostId: number): Places {
  const missing: string[] = []
  const one = (variable: string, address: string | undefined, known: readonly string[]): string => {
    const first = hostId % known.length
    const chosen = address ?? [...known.slice(first), ...known.slice(0, first)].join(',')
    if (chosen === '') missing.push(`${variable} is not set, and the domain does not say it`)
    return chosen
  }
  const found = {
    nats: config.natsServers ?? places.bus,
    config: one('WEFT_FORWARDER_CONFIG', config.configAddress, places.config),
    resolver: one('WEFT_FORWARDER_RESOLVER', config.resolverAddress, places.locationResolver),
    policy: one('WEFT_FORWARDER_POLICY', config.policyAddress, places.routingPolicy),
  }
  if (missing.length > 0) throw new InvalidConfigError(missing)
  return found
}
