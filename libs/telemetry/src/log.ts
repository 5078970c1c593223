import { trace } from '@opentelemetry/api'
import { type DestinationStream, destination, pino, stdTimeFunctions } from 'pino'

/** From loudest to quietest: somebody must act now; degraded and healing; life cycle; decisions; packets. */
export const LOG_LEVELS = ['error', 'warn', 'info', 'debug', 'trace', 'silent'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

interface Write {
  (message: string): void
  /** An error goes under `err`. */
  (facts: object, message: string): void
}

/** Writes JSON, one object a line. */
export interface Logger {
  readonly error: Write
  readonly warn: Write
  readonly info: Write
  readonly debug: Write
  readonly trace: Write
  child(facts: Record<string, unknown>): Logger
  /** Writes out what is buffered. */
  flush(): void
}

/** Names under which secrets might be logged; at the top and one level below. */
const SECRET_NAMES = ['password', 'secret', 'token', 'privateKey', 'credentials', 'authorization']

/** Makes the logger of a process. It writes to standard output unless `stream` is given. */
export function createLogger(options: {
  readonly service: string
  readonly level?: LogLevel
  readonly stream?: DestinationStream
}): Logger {
  return pino(
    {
      level: options.level ?? 'info',
      base: { service: options.service, pid: process.pid },
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: SECRET_NAMES.flatMap((name) => [name, `*.${name}`]),
      mixin: traceFacts,
    },
    // Synchronous: lines keep their order and the last ones are out when the process ends, however it ends.
    options.stream ?? destination({ dest: 1, sync: true }),
  )
}

/** Joins log lines to traces. */
function traceFacts(): object {
  const span = trace.getActiveSpan()?.spanContext()
  return span ? { traceId: span.traceId, spanId: span.spanId } : {}
}
