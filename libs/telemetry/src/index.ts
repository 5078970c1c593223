export { createLogger, LOG_LEVELS, type Logger, type LogLevel } from './log.ts'
export {
  type Counter,
  counter,
  DURATION_BUCKETS_SECONDS,
  gauge,
  type Histogram,
  histogram,
  observedCounter,
} from './metrics.ts'
export { METRIC_SERIES_MAX, type MetricOptions, type Observed } from './observed.ts'
export { SparseLog } from './sparse-log.ts'
export type { TraceLine } from './trace-file.ts'
export {
  type Attributes,
  injectTrace,
  type Span,
  SpanKind,
  span,
  untraced,
  withTraceOf,
} from './tracing.ts'
