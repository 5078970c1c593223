import type { Io } from './io.ts'

/**
 * Runs a command as the first span of a trace, if somebody reads traces (`WEFT_TRACE_FILE`, `OTEL_EXPORTER_OTLP_ENDPOINT`).
 * What traces is loaded only then.
 */
export async function traced(io: Io, name: string, work: () => Promise<void>): Promise<void> {
  const traceFile = io.env['WEFT_TRACE_FILE']
  const otlpEndpoint = io.env['OTEL_EXPORTER_OTLP_ENDPOINT']
  if (traceFile === undefined && otlpEndpoint === undefined) return await work()
  const [{ span }, { startTelemetry }] = await Promise.all([
    import('@weft/telemetry'),
    import('@weft/telemetry/start'),
  ])
  await using _telemetry = await startTelemetry({
    service: 'weft',
    logLevel: 'silent',
    traceFile,
    otlpEndpoint,
  })
  await span(name, {}, work)
}
