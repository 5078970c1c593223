import {
  type Attributes,
  context,
  propagation,
  type Span,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  trace,
} from '@opentelemetry/api'
import { asWeftError } from '@weft/errors'

export { type Attributes, type Span, SpanKind } from '@opentelemetry/api'

/** Runs `body` in a span that ends with it and tells its error. Without a tracer it costs a few calls. */
export async function span<T>(
  name: string,
  attributes: Attributes,
  body: (span: Span) => T | Promise<T>,
  kind: SpanKind = SpanKind.INTERNAL,
): Promise<T> {
  return trace.getTracer('weft').startActiveSpan(name, { kind, attributes }, async (active) => {
    try {
      return await body(active)
    } catch (error) {
      const { code, message } = asWeftError(error)
      active.setAttribute('error.type', code)
      active.setStatus({ code: SpanStatusCode.ERROR, message })
      throw error
    } finally {
      active.end()
    }
  })
}

/** Writes the current trace into headers (W3C Trace Context). */
export function injectTrace(set: (name: string, value: string) => void): void {
  propagation.inject(context.active(), set, { set: (carrier, name, value) => carrier(name, value) })
}

/** Runs `body` as a part of the trace that the headers name. */
export function withTraceOf<T>(get: (name: string) => string | undefined, body: () => T): T {
  const parent = propagation.extract(context.active(), get, {
    get: (carrier, name) => carrier(name),
    keys: () => [],
  })
  return context.with(parent, body)
}

/** A trace that nobody records, which is passed on as such. */
const UNRECORDED = {
  traceId: '00000000000000000000000000000001',
  spanId: '0000000000000001',
  traceFlags: TraceFlags.NONE,
}

/** Runs `body` in no trace, here and in the services that it asks: for what is asked over and over and interests nobody. */
export function untraced<T>(body: () => T): T {
  return context.with(trace.setSpanContext(context.active(), UNRECORDED), body)
}
