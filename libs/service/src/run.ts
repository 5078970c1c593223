import { parseArgs } from 'node:util'
import { describeVariables, type EnvReader, formatVariables, readEnv } from '@weft/env'
import { asWeftError, WeftError } from '@weft/errors'
import { createLogger, LOG_LEVELS, type Logger } from '@weft/telemetry'
import { startTelemetry, type TelemetryConfig } from '@weft/telemetry/start'

/** What a service is given to start with. */
export interface ServiceContext {
  readonly name: string
  readonly log: Logger
  /** Aborted when the process is asked to stop, before the service is disposed: stop taking work. */
  readonly signal: AbortSignal
}

/** A service that runs. Disposing drains it. */
export interface RunningService extends AsyncDisposable {
  /** Where it listens. */
  readonly addresses: readonly string[]
}

export interface ServiceDefinition<C> {
  readonly name: string
  /** Reads the whole configuration; pure. */
  readConfig(reader: EnvReader): C
  start(config: C, context: ServiceContext): Promise<RunningService>
}

/** Exit codes of `sysexits.h`, by which an init system tells a mistake of the operator from a defect. */
const EX_USAGE = 64
const EX_SOFTWARE = 70

/** A service that takes longer to drain is ended; what it held is as after a crash. */
const DRAIN_DEADLINE_MS = 10_000

/**
 * Runs a service until SIGTERM or SIGINT: reads the whole configuration before anything starts, logs one `ready` line
 * with the listening addresses, and at the end drains with a deadline. The only place that touches signals and exit codes:
 * 0 stopped as asked, 64 bad configuration, 70 a defect, else the exit code of the error (`@weft/errors`).
 */
export async function run<C>(definition: ServiceDefinition<C>): Promise<void> {
  const read = (reader: EnvReader) => ({
    telemetry: readTelemetryConfig(definition.name, reader),
    config: definition.readConfig(reader),
  })
  const { values } = parseArgs({ options: { help: { type: 'boolean' } } })
  if (values.help) {
    const variables = formatVariables(describeVariables(read))
    process.stdout.write(`${definition.name}: configured by the environment\n\n${variables}\n`)
    return
  }
  process.exit(await life(definition, read))
}

async function life<C>(
  definition: ServiceDefinition<C>,
  read: (reader: EnvReader) => { readonly telemetry: TelemetryConfig; readonly config: C },
): Promise<number> {
  let log = createLogger({ service: definition.name })
  try {
    const { telemetry: telemetryConfig, config } = readEnv(process.env, read)
    await using telemetry = await startTelemetry(telemetryConfig)
    log = telemetry.log
    logWarnings(log)
    const stopping = new AbortController()
    using end = endOfProcess(log)
    const starting = definition.start(config, {
      name: definition.name,
      log,
      signal: stopping.signal,
    })
    const service = await Promise.race([starting, end.reached.then(() => undefined)])
    if (service) {
      log.info({ addresses: service.addresses, metrics: telemetry.metricsAddress }, 'ready')
    }
    const exitCode = await end.reached
    stopping.abort()
    await drain(starting, log)
    log.info({ exitCode }, 'stopped')
    return exitCode
  } catch (error) {
    return report(log, error)
  }
}

/** Resolves with the exit code when the process is asked to stop, or when an error escaped all handlers. */
function endOfProcess(log: Logger): Disposable & { readonly reached: Promise<number> } {
  const { promise, resolve } = Promise.withResolvers<number>()
  const stop = (signal: string): void => {
    log.info({ signal }, 'stopping')
    resolve(0)
  }
  const fail = (error: unknown): void => {
    log.error({ err: error }, 'an error escaped its handler')
    resolve(EX_SOFTWARE)
  }
  process.on('SIGTERM', stop).on('SIGINT', stop)
  process.on('uncaughtException', fail).on('unhandledRejection', fail)
  return {
    reached: promise,
    [Symbol.dispose]() {
      process.off('SIGTERM', stop).off('SIGINT', stop)
      process.off('uncaughtException', fail).off('unhandledRejection', fail)
    },
  }
}

/** What Node would print as text beside the log lines, for example a timer that the clock has moved years away. */
function logWarnings(log: Logger): void {
  process.removeAllListeners('warning')
  process.on('warning', (warning) => log.warn({ err: warning }, 'a warning of the runtime'))
}

/** Waits for the service to end, also for one that is asked to stop while it starts: that fails because of its signal. */
async function drain(starting: Promise<RunningService>, log: Logger): Promise<void> {
  const { promise: deadline, resolve } = Promise.withResolvers<'late'>()
  const timer = setTimeout(resolve, DRAIN_DEADLINE_MS, 'late')
  const drained = starting.then(
    (service) => service[Symbol.asyncDispose](),
    (error: unknown) => log.debug({ err: error }, 'stopped while starting'),
  )
  const outcome = await Promise.race([drained, deadline])
  clearTimeout(timer)
  if (outcome === 'late') log.warn({ deadlineMs: DRAIN_DEADLINE_MS }, 'not drained in time')
}

function report(log: Logger, error: unknown): number {
  const { code, message, remedy, facts, exitCode } = asWeftError(error)
  if (!(error instanceof WeftError)) {
    log.error({ err: error }, 'failed')
    return EX_SOFTWARE
  }
  log.error({ code, facts, remedy }, message)
  return code === 'invalid-config' ? EX_USAGE : exitCode
}

function readTelemetryConfig(service: string, reader: EnvReader): TelemetryConfig {
  return {
    service,
    logLevel: reader.oneOf('WEFT_LOG_LEVEL', LOG_LEVELS, {
      help: 'least important log lines to write',
      default: 'info',
    }),
    metricsListen: reader.address('WEFT_METRICS_LISTEN', {
      help: 'where Prometheus reads /metrics; none if not set',
      optional: true,
    }),
    traceFile: reader.path('WEFT_TRACE_FILE', {
      help: 'file to which finished spans are appended as JSON lines; none if not set',
      optional: true,
    }),
    otlpEndpoint: reader.url('OTEL_EXPORTER_OTLP_ENDPOINT', {
      schemes: ['http', 'https'],
      help: 'OTLP/HTTP collector for traces; none if not set',
      optional: true,
    }),
  }
}
