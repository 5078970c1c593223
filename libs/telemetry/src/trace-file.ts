import { type FileHandle, open } from 'node:fs/promises'
import { ExportResultCode, hrTimeToMicroseconds } from '@opentelemetry/core'
import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace'

type Done = Parameters<SpanExporter['export']>[1]

/** A span as a line of the trace file; times in microseconds since 1970. */
export interface TraceLine {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId: string | undefined
  readonly service: string
  readonly name: string
  readonly startUs: number
  readonly endUs: number
  readonly attributes: Readonly<Record<string, unknown>>
  readonly error: string | undefined
}

/** Appends finished spans to a file, one JSON object a line; several processes may share it, since a short append is one write. */
export class TraceFileExporter implements SpanExporter {
  readonly #service: string
  readonly #file: Promise<FileHandle>

  constructor(service: string, path: string) {
    this.#service = service
    this.#file = open(path, 'a')
  }

  export(spans: ReadableSpan[], done: Done): void {
    const lines = spans.map((span) => `${JSON.stringify(this.#line(span))}\n`).join('')
    void this.#append(lines, done)
  }

  async shutdown(): Promise<void> {
    await (await this.#file).close()
  }

  async #append(lines: string, done: Done): Promise<void> {
    try {
      await (await this.#file).appendFile(lines)
    } catch (error) {
      done({ code: ExportResultCode.FAILED, error: error as Error })
      return
    }
    done({ code: ExportResultCode.SUCCESS })
  }

  #line(span: ReadableSpan): TraceLine {
    const { traceId, spanId } = span.spanContext()
    return {
      traceId,
      spanId,
      parentSpanId: span.parentSpanContext?.spanId,
      service: this.#service,
      name: span.name,
      startUs: hrTimeToMicroseconds(span.startTime),
      endUs: hrTimeToMicroseconds(span.endTime),
      attributes: span.attributes,
      error: span.status.message,
    }
  }
}
