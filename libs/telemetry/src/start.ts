import { once } from 'node:events'
import { rm } from 'node:fs/promises'
import { createServer, type Server, type ServerResponse } from 'node:http'
import { context, metrics, propagation, trace, ValueType } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { hrTime, W3CTraceContextPropagator } from '@opentelemetry/core'
import { PrometheusSerializer } from '@opentelemetry/exporter-prometheus'
import { resourceFromAttributes } from '@opentelemetry/resources'
import {
  AggregationTemporality,
  type CollectionResult,
  DataPointType,
  MeterProvider,
  type MetricData,
  MetricReader,
} from '@opentelemetry/sdk-metrics'
import {
  AlwaysOnSampler,
  BatchSpanProcessor,
  ParentBasedSampler,
  type SpanExporter,
  TracerProvider,
} from '@opentelemetry/sdk-trace'
import { PortInUseError } from '@weft/errors'
import { createLogger, type Logger, type LogLevel } from './log.ts'
import { gauge } from './metrics.ts'
import { METRIC_SERIES_MAX, type ObservedMetric, observedMetrics } from './observed.ts'
import { TraceFileExporter } from './trace-file.ts'

export interface TelemetryConfig {
  readonly service: string
  readonly logLevel: LogLevel
  /** Where `/metrics` is served: `host:port` or `unix:/path`. */
  readonly metricsListen?: string | undefined
  /** File to which finished spans are appended. */
  readonly traceFile?: string | undefined
  /** Base URL of an OTLP/HTTP collector. */
  readonly otlpEndpoint?: string | undefined
}

export interface Telemetry extends AsyncDisposable {
  readonly log: Logger
  /** Where metrics are served, with the port that was chosen for port 0. */
  readonly metricsAddress: string | undefined
}

const processMemory = gauge({
  name: 'process_resident_memory_bytes',
  help: 'Resident memory of the process',
})

/** Starts what the configuration asks for: logs always; metrics and traces only if somebody reads them. */
export async function startTelemetry(config: TelemetryConfig): Promise<Telemetry> {
  await using started = new AsyncDisposableStack()
  const log = createLogger({ service: config.service, level: config.logLevel })
  const resource = resourceFromAttributes({ 'service.name': config.service })
  const exporters = await spanExporters(config)
  if (exporters.length > 0) {
    const provider = new TracerProvider({
      resource,
      sampler: new ParentBasedSampler({ root: new AlwaysOnSampler() }),
      spanProcessors: exporters.map(
        (exporter) => new BatchSpanProcessor({ exporter, scheduledDelayMillis: 500 }),
      ),
    })
    context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
    propagation.setGlobalPropagator(new W3CTraceContextPropagator())
    trace.setGlobalTracerProvider(provider)
    started.defer(async () => {
      trace.disable()
      propagation.disable()
      context.disable()
      await provider.shutdown()
    })
  }
  let metricsAddress: string | undefined
  if (config.metricsListen !== undefined) {
    const reader = new PrometheusReader()
    const provider = new MeterProvider({ resource, readers: [reader] })
    metrics.setGlobalMeterProvider(provider)
    started.defer(async () => {
      metrics.disable()
      await provider.shutdown()
    })
    started.defer(processMemory.observe((report) => report(process.memoryUsage.rss(), {})))
    const server = await serveMetrics(config.metricsListen, reader)
    metricsAddress = server.address
    started.use(server)
  }
  const stack = started.move()
  return {
    log,
    metricsAddress,
    async [Symbol.asyncDispose]() {
      await stack.disposeAsync()
      log.flush()
    },
  }
}

/** Collects when asked and writes the text format of Prometheus. */
class PrometheusReader extends MetricReader {
  readonly #serializer = new PrometheusSerializer('', false, undefined, false, true)

  constructor() {
    super({
      cardinalitySelector: () => METRIC_SERIES_MAX,
      metricProducers: [{ collect: async () => collectObserved() }],
    })
  }

  async text(): Promise<string> {
    const { resourceMetrics } = await this.collect()
    return this.#serializer.serialize(resourceMetrics)
  }

  protected override async onShutdown(): Promise<void> {}

  protected override async onForceFlush(): Promise<void> {}
}

/** What is observed, in the shape of the SDK's own instruments. A read that fails leaves out its metric alone. */
function collectObserved(): CollectionResult {
  const collected: MetricData[] = []
  const errors: unknown[] = []
  for (const metric of observedMetrics()) {
    try {
      collected.push(metricData(metric))
    } catch (error) {
      errors.push(error)
    }
  }
  const scopeMetrics = [{ scope: { name: 'weft' }, metrics: collected }]
  return { resourceMetrics: { resource: resourceFromAttributes({}), scopeMetrics }, errors }
}

function metricData({ kind, name, help, read }: ObservedMetric): MetricData {
  const now = hrTime()
  const common = {
    descriptor: { name, description: help, unit: '', valueType: ValueType.DOUBLE },
    aggregationTemporality: AggregationTemporality.CUMULATIVE,
    dataPoints: read().map(({ value, labels }) => ({
      startTime: now,
      endTime: now,
      attributes: labels,
      value,
    })),
  }
  if (kind === 'gauge') return { ...common, dataPointType: DataPointType.GAUGE }
  return { ...common, dataPointType: DataPointType.SUM, isMonotonic: true }
}

async function spanExporters(config: TelemetryConfig): Promise<SpanExporter[]> {
  const exporters: SpanExporter[] = []
  if (config.traceFile !== undefined) {
    exporters.push(new TraceFileExporter(config.service, config.traceFile))
  }
  if (config.otlpEndpoint !== undefined) {
    // Loaded only if it is wanted: it takes 5 MB.
    const { OTLPTraceExporter } = await import('@opentelemetry/exporter-trace-otlp-http')
    const url = `${config.otlpEndpoint.replace(/\/$/, '')}/v1/traces`
    exporters.push(new OTLPTraceExporter({ url }))
  }
  return exporters
}

async function serveMetrics(
  listen: string,
  reader: PrometheusReader,
): Promise<{ readonly address: string } & AsyncDisposable> {
  const server = createServer((request, response) => {
    if (request.method !== 'GET' || request.url !== '/metrics') {
      response.writeHead(404).end()
      return
    }
    reader.text().then(
      (text) => response.writeHead(200, { 'content-type': 'text/plain; version=0.0.4' }).end(text),
      (error: Error) => fail(response, error),
    )
  })
  const address = await listenOn(server, listen)
  return {
    address,
    async [Symbol.asyncDispose]() {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}

function fail(response: ServerResponse, error: Error): void {
  response.writeHead(500).end(`${error.message}\n`)
}

async function listenOn(server: Server, listen: string): Promise<string> {
  try {
    if (listen.startsWith('unix:')) {
      const path = listen.slice('unix:'.length)
      // Nobody else has this path: the metrics socket lies in the service's own run folder.
      await rm(path, { force: true })
      server.listen(path)
      await once(server, 'listening')
      return listen
    }
    const separator = listen.lastIndexOf(':')
    const host = listen.slice(0, separator)
    server.listen(Number(listen.slice(separator + 1)), host.replace(/^\[|\]$/g, ''))
    await once(server, 'listening')
    const bound = server.address()
    return typeof bound === 'object' && bound ? `${host}:${bound.port}` : listen
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') {
      throw new PortInUseError({ address: listen, variable: 'WEFT_METRICS_LISTEN' })
    }
    throw error
  }
}
