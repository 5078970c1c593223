/** Series of one metric. Of a counter or histogram, what would be more goes into one series labelled `otel_metric_overflow`; of what is observed it is left out. */
export const METRIC_SERIES_MAX = 2000

export type Labels<L extends string> = Readonly<Record<L, string | number>>

/** Prometheus names: `weft_<thing>_<unit>`, counters with `_total`. */
export interface MetricOptions<L extends string> {
  readonly name: string
  readonly help: string
  /** Few values each: ids of hosts and endpoints only where their number is bounded. */
  readonly labels?: readonly L[]
}

/** Values that are read when somebody asks for them. A series that is not reported any more is gone. */
export interface Observed<L extends string> {
  /** `read` reports every series. Returns how to stop. */
  observe(read: (report: (value: number, labels: Labels<L>) => void) => void): () => void
}

export interface Series {
  readonly value: number
  readonly labels: Labels<string>
}

export interface ObservedMetric {
  readonly kind: 'gauge' | 'counter'
  readonly name: string
  readonly help: string
  /** All series of now. */
  readonly read: () => Series[]
}

/*
 * OpenTelemetry's own observable instruments go on to show the last value of a series that is not observed any more (seen in
 * sdk-metrics 3.1.1): a port that was detached would count for ever. So observed metrics are kept here, and the reader asks
 * for them beside the instruments.
 */
const metrics = new Map<string, ObservedMetric>()

/** Every observed metric that somebody reports. */
export function observedMetrics(): Iterable<ObservedMetric> {
  return metrics.values()
}

export function observed<L extends string>(
  kind: ObservedMetric['kind'],
  { name, help }: MetricOptions<L>,
): Observed<L> {
  type Read = Parameters<Observed<L>['observe']>[0]
  const reads = new Set<Read>()
  const read = (): Series[] => {
    const series: Series[] = []
    const report = (value: number, labels: Labels<L>): void => {
      if (series.length < METRIC_SERIES_MAX) series.push({ value, labels })
    }
    for (const one of reads) one(report)
    return series
  }
  return {
    observe(one) {
      reads.add(one)
      metrics.set(name, { kind, name, help, read })
      return () => {
        reads.delete(one)
        if (reads.size === 0) metrics.delete(name)
      }
    },
  }
}
