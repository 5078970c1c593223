import type { Port as ShuttlePort } from '@weft/proto/weftline/shuttle/v1/shuttle.ts'
import { gauge, observedCounter } from '@weft/telemetry'
import { countByState } from './domain/open-connections.ts'
import { portName } from './domain/ports.ts'
import { connectionsOf, type Host } from './host.ts'

const portPackets = observedCounter<'port' | 'direction'>({
  name: 'weft_port_packets_total',
  help: 'Packets at a port, by direction as the endpoint sees it: sent, received',
  labels: ['port', 'direction'],
})
const portBytes = observedCounter<'port' | 'direction'>({
  name: 'weft_port_bytes_total',
  help: 'Bytes at a port, by direction as the endpoint sees it: sent, received',
  labels: ['port', 'direction'],
})
const portVerdicts = observedCounter<'port' | 'verdict'>({
  name: 'weft_port_verdicts_total',
  help: 'Packets that a port took from its endpoint, by what they came to',
  labels: ['port', 'verdict'],
})
const portDrops = observedCounter<'port' | 'reason'>({
  name: 'weft_port_drops_total',
  help: 'Packets that a port took from its endpoint and that were dropped, by reason',
  labels: ['port', 'reason'],
})
const hostDrops = observedCounter<'reason'>({
  name: 'weft_host_drops_total',
  help: 'Packets that were dropped at no port, by reason',
  labels: ['reason'],
})
const sealedDrops = observedCounter<'reason'>({
  name: 'weft_sealed_drops_total',
  help: 'Frames and datagrams of the sealed transport that were dropped, by reason',
  labels: ['reason'],
})
const sealedFallbacks = observedCounter<'way'>({
  name: 'weft_sealed_fallbacks_total',
  help: 'Sends, receives and writes of the sealed transport that went another way than the fastest, by way',
  labels: ['way'],
})
const sealedRefusals = observedCounter<'reason'>({
  name: 'weft_sealed_refusals_total',
  help: 'Messages of handshakes and control frames of peers that led to nothing, by reason',
  labels: ['reason'],
})
const tableEntries = gauge<'kind'>({
  name: 'weft_forwarder_table_entries',
  help: 'Entries of the switch tables, by kind: networks, endpoints, peers',
  labels: ['kind'],
})
const unvouchedNetworks = gauge({
  name: 'weft_forwarder_unvouched_networks',
  help: 'Networks of locked tenants that do not count here, because their key says nothing of them',
})
const openConnectionCount = gauge<'carrier' | 'state'>({
  name: 'weft_forwarder_open_connections',
  help: 'Connections to other hosts and WireGuard clients, by carrier (vxlan, sealed; client for those) and state (idle, connecting, open, unreachable)',
  labels: ['carrier', 'state'],
})
const sealingUp = gauge({
  name: 'weft_forwarder_sealing_up',
  help: '1 while this host seals what goes to others, 0 while it should and does not; absent where it has not to',
})
const tableAge = gauge({
  name: 'weft_forwarder_table_age_seconds',
  help: 'Time since the tables were known to be what the controller says',
})
const dependencyUp = gauge<'dependency'>({
  name: 'weft_forwarder_dependency_up',
  help: '1 while a dependency answers',
  labels: ['dependency'],
})
const cacheHits = observedCounter<'cache'>({
  name: 'weft_forwarder_cache_hits_total',
  help: 'Questions that a cache answered',
  labels: ['cache'],
})
const cacheMisses = observedCounter<'cache'>({
  name: 'weft_forwarder_cache_misses_total',
  help: 'Questions that a cache could not answer',
  labels: ['cache'],
})
const cacheStale = observedCounter<'cache'>({
  name: 'weft_forwarder_cache_stale_answers_total',
  help: "Answers of this host's own, because nobody could be asked",
  labels: ['cache'],
})

/** Exports what the host counts; `lastPorts` are the counters that were read last. Returns how to stop. */
export function observeHost(host: Host, lastPorts: () => readonly ShuttlePort[]): Disposable {
  const stops = [
    portPackets.observe((report) => {
      for (const [port, counters] of named(host, lastPorts())) {
        report(Number(counters.receivedPackets), { port, direction: 'sent' })
        report(Number(counters.sentPackets), { port, direction: 'received' })
      }
    }),
    portBytes.observe((report) => {
      for (const [port, counters] of named(host, lastPorts())) {
        report(Number(counters.receivedBytes), { port, direction: 'sent' })
        report(Number(counters.sentBytes), { port, direction: 'received' })
      }
    }),
    portVerdicts.observe((report) => {
      for (const [port, { verdicts }] of named(host, lastPorts())) {
        for (const [verdict, count] of Object.entries(verdicts)) {
          report(Number(count), { port, verdict })
        }
      }
    }),
    portDrops.observe((report) => {
      for (const [port, { drops }] of named(host, lastPorts())) {
        for (const [reason, count] of Object.entries(drops)) report(Number(count), { port, reason })
      }
    }),
    hostDrops.observe((report) => {
      for (const [reason, count] of Object.entries(host.dataPlane.info?.hostDrops ?? {})) {
        report(Number(count), { reason })
      }
    }),
    sealedDrops.observe((report) => {
      for (const [reason, count] of Object.entries(host.dataPlane.info?.sealed?.drops ?? {})) {
        report(Number(count), { reason })
      }
    }),
    sealedFallbacks.observe((report) => {
      for (const [way, count] of Object.entries(host.dataPlane.info?.sealed?.fallbacks ?? {})) {
        report(Number(count), { way })
      }
    }),
    sealedRefusals.observe((report) => {
      for (const [reason, count] of Object.entries(host.dataPlane.info?.sealed?.refusals ?? {})) {
        report(Number(count), { reason })
      }
    }),
    tableEntries.observe((report) => {
      for (const [kind, count] of Object.entries(host.table.sizes)) report(count, { kind })
    }),
    unvouchedNetworks.observe((report) => {
      const networks = [...host.rows.networks.values()]
      report(networks.filter(({ value }) => !host.locks.isVouchedFor(value)).length, {})
    }),
    openConnectionCount.observe((report) => {
      for (const [name, count] of countByState(connectionsOf(host))) {
        const [carrier = '', state = ''] = name.split(' ')
        report(count, { carrier, state })
      }
    }),
    sealingUp.observe((report) => {
      const { state } = host.sealing
      if (state) report(state.kind === 'on' ? 1 : 0, {})
    }),
    tableAge.observe((report) => report(host.standing.tableAgeMs(Date.now()) / 1000, {})),
    dependencyUp.observe((report) => {
      const now = Date.now()
      for (const dependency of host.dependencies) {
        report(dependency.status(now).health === 'ok' ? 1 : 0, { dependency: dependency.name })
      }
    }),
    cacheHits.observe((report) => {
      for (const [cache, { hits }] of caches(host)) report(hits, { cache })
    }),
    cacheMisses.observe((report) => {
      for (const [cache, { misses }] of caches(host)) report(misses, { cache })
    }),
    cacheStale.observe((report) => {
      for (const [cache, { staleAnswers }] of caches(host)) report(staleAnswers, { cache })
    }),
  ]
  return {
    [Symbol.dispose]() {
      for (const stop of stops) stop()
    },
  }
}

function* named(
  host: Host,
  ports: readonly ShuttlePort[],
): Generator<[string, NonNullable<ShuttlePort['counters']>], void, undefined> {
  for (const { endpointId, counters } of ports) {
    const port = host.ports.get(endpointId)
    if (port && counters) yield [portName(port), counters]
  }
}

function caches(host: Host) {
  const now = Date.now()
  return [
    ['resolutions', host.resolutions.status(now)],
    ['decisions', host.decisions.status(now)],
  ] as const
}
