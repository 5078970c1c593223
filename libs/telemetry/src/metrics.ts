import { type Meter, type MeterProvider, metrics } from '@opentelemetry/api'
import { type Labels, type MetricOptions, type Observed, observed } from './observed.ts'

export interface Counter<L extends string> {
  add(value: number, labels: Labels<L>): void
}

export interface Histogram<L extends string> {
  record(value: number, labels: Labels<L>): void
}

/** Bounds for durations in seconds, 100 us to 10 s. */
export const DURATION_BUCKETS_SECONDS: readonly number[] = [
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
]

/** A number that only grows. May be made before telemetry starts. */
export function counter<L extends string = never>(options: MetricOptions<L>): Counter<L> {
  const instrument = lazily((meter) =>
    meter.createCounter(options.name, { description: options.help }),
  )
  return { add: (value, labels) => instrument().add(value, labels) }
}

/** A distribution, by `buckets` (upper bounds, growing). */
export function histogram<L extends string = never>(
  options: MetricOptions<L> & { readonly buckets?: readonly number[] },
): Histogram<L> {
  const instrument = lazily((meter) =>
    meter.createHistogram(options.name, {
      description: options.help,
      advice: { explicitBucketBoundaries: [...(options.buckets ?? DURATION_BUCKETS_SECONDS)] },
    }),
  )
  return { record: (value, labels) => instrument().record(value, labels) }
}

/** A number that goes up and down, read on demand. */
export function gauge<L extends string = never>(options: MetricOptions<L>): Observed<L> {
  return observed('gauge', options)
}

/** A number that only grows and is counted elsewhere, read on demand. */
export function observedCounter<L extends string = never>(options: MetricOptions<L>): Observed<L> {
  return observed('counter', options)
}

/** Instruments made before a provider is registered would stay without effect (the metrics API has no proxies), so each is made at its first use. */
function lazily<T>(create: (meter: Meter) => T): () => T {
  let madeBy: MeterProvider | undefined
  let instrument: T | undefined
  return () => {
    const provider = metrics.getMeterProvider()
    if (instrument === undefined || provider !== madeBy) {
      instrument = create(provider.getMeter('weft'))
      madeBy = provider
    }
    return instrument
  }
}
