import type { OpenConnection } from '@weft/proto/weftline/common/v1/common.ts'
import type { DataPlane } from './data-plane.ts'
import type { Dependency } from './dependency.ts'
import type { Connections } from './domain/connections.ts'
import type { DecisionCache } from './domain/decision-cache.ts'
import { type HostRows, ownAddresses } from './domain/host-rows.ts'
import { clientConnections, openConnections } from './domain/open-connections.ts'
import type { Ports } from './domain/ports.ts'
import type { ResolutionCache } from './domain/resolution-cache.ts'
import type { SwitchTable } from './domain/switch-table.ts'
import type { TenantLocks } from './domain/tenant-locks.ts'
import type { PortDesk } from './port-desk.ts'
import type { Sealing } from './sealing.ts'
import type { Standing } from './standing.ts'

/** What this host knows, has and does, for those who ask. */
export interface Host {
  readonly hostId: number
  readonly hostName: string
  readonly rows: HostRows
  readonly locks: TenantLocks
  readonly ports: Ports
  readonly table: SwitchTable
  readonly resolutions: ResolutionCache
  readonly decisions: DecisionCache
  readonly connections: Connections
  readonly dataPlane: DataPlane
  readonly sealing: Sealing
  readonly desk: PortDesk
  readonly standing: Standing
  /** The time by which rights end, in milliseconds since 1970. */
  readonly rightsNowMs: () => number
  /** bus, config, location-resolver, routing-policy and shuttle. */
  readonly dependencies: readonly Dependency[]
}

/** The connections to other hosts and to clients, as they are at present. */
export function connectionsOf({ table, sealing, rows, ports }: Host): OpenConnection[] {
  return [
    ...openConnections(table.peerEntries(), sealing.states, ownAddresses(rows)),
    ...clientConnections(ports, sealing.states),
  ]
}
