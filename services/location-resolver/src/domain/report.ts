import { EndpointNotAssignedError, EndpointNotFoundError, InvalidArgumentError } from '@weft/errors'
import type { ConfigView, Endpoint } from './config-view.ts'
import type { Location } from './location-table.ts'

/** What a host observed of one of its endpoints. */
export interface Report {
  readonly change: 'attached' | 'detached'
  readonly endpointId: number
  readonly networkId: number
  /** 4 or 16 bytes each. */
  readonly addresses: Buffer[]
  readonly hostId: number
  readonly leaseId: string
  readonly observedAtUnixMs: bigint
  /** Grows for a host and endpoint. */
  readonly sequence: bigint
  readonly hostSignature: Buffer
  /** Revision of the VN database at which the host saw the assignment, 0n if it does not know. */
  readonly configRevision: bigint
  /** All of it with its signature, as it came: hosts that trust the reporter alone verify it themselves. */
  readonly encoded: Buffer
}

export type ReportDecision =
  /** Store `record` in place of what was there. */
  | { readonly kind: 'write'; readonly record: Location }
  /** Nothing new: what is stored stays. */
  | { readonly kind: 'keep' }

/**
 * Whether the copy of the VN database is new enough to judge the report. A host often reports sooner than the assignment
 * that it acts on has come here; one that does not say at which revision it saw it is given the benefit of the doubt.
 */
export function canJudge(report: Report, config: ConfigView): boolean {
  if (config.revision < report.configRevision) return false
  if (config.revision < BigInt(report.endpointId)) return false
  if (report.change === 'detached' || report.configRevision > 0n) return true
  const endpoint = config.endpoints.get(report.endpointId)
  return endpoint === undefined || endpoint.hostId === report.hostId
}

/**
 * Decides what a report does to the stored record of its endpoint.
 *
 * @throws EndpointNotFoundError: an endpoint that was attached is not in the VN database.
 * @throws EndpointNotAssignedError: it is not assigned to the host that reports.
 * @throws InvalidArgumentError: the report contradicts the VN database.
 */
export function decideReport(
  report: Report,
  config: ConfigView,
  current: Location | undefined,
): ReportDecision {
  return report.change === 'attached'
    ? decideAttached(report, config, current)
    : decideDetached(report, config, current)
}

function decideAttached(
  report: Report,
  config: ConfigView,
  current: Location | undefined,
): ReportDecision {
  const endpoint = config.endpoints.get(report.endpointId)
  if (endpoint === undefined) throw new EndpointNotFoundError({ endpoint: report.endpointId })
  checkAssignment(report, endpoint, config)
  if (isLate(report, current)) return { kind: 'keep' }
  const epoch = current?.epoch ?? 0n
  const record = recordOf(report, current, {
    hostId: report.hostId,
    epoch: current?.hostId === report.hostId ? epoch : epoch + 1n,
    addresses: endpoint.addresses,
    leaseId: report.leaseId,
    report: report.encoded,
  })
  return { kind: 'write', record }
}

function decideDetached(
  report: Report,
  config: ConfigView,
  current: Location | undefined,
): ReportDecision {
  if (!config.endpoints.has(report.endpointId)) return { kind: 'keep' }
  if (current !== undefined && current.reporterHostId !== report.hostId) return { kind: 'keep' }
  if (isLate(report, current)) return { kind: 'keep' }
  // Also where it was not located: a report of its attachment that was overtaken by this one must find that it is late.
  const record = recordOf(report, current, {
    hostId: 0,
    epoch: current?.epoch ?? 0n,
    addresses: [],
    leaseId: '',
    report: Buffer.alloc(0),
  })
  return { kind: 'write', record }
}

function isLate(report: Report, current: Location | undefined): boolean {
  return current?.reporterHostId === report.hostId && report.sequence <= current.reportSequence
}

function checkAssignment(report: Report, endpoint: Endpoint, config: ConfigView): void {
  if (endpoint.hostId !== report.hostId) {
    const host = config.hosts.get(report.hostId)?.name ?? report.hostId
    throw new EndpointNotAssignedError({ endpoint: endpoint.name, host })
  }
  if (endpoint.networkId !== report.networkId) {
    const problem = `${report.networkId}, but endpoint ${endpoint.name} is on ${endpoint.networkId}`
    throw new InvalidArgumentError({ field: 'network_id', problem })
  }
  const isOwn = (address: Buffer): boolean =>
    endpoint.addresses.some((own) => Buffer.compare(own, address) === 0)
  if (!report.addresses.every(isOwn)) {
    const problem = `one that endpoint ${endpoint.name} does not have`
    throw new InvalidArgumentError({ field: 'addresses', problem })
  }
}

function recordOf(
  report: Report,
  current: Location | undefined,
  claim: Pick<Location, 'hostId' | 'epoch' | 'addresses' | 'leaseId' | 'report'>,
): Location {
  return {
    // First, so that fields which a newer replica stored are kept.
    ...current,
    endpointId: report.endpointId,
    networkId: report.networkId,
    observedAtUnixMs: report.observedAtUnixMs,
    hostSignature: report.hostSignature,
    reportSequence: report.sequence,
    reporterHostId: report.hostId,
    revision: 0n,
    ...claim,
  }
}
