import { stripVTControlCharacters } from 'node:util'
import {
  formatIpAddress,
  formatMacAddress,
  formatPrefix,
  type IpAddress,
  type MacAddress,
  type Prefix,
} from '@weft/net'
import type { Paint } from './io.ts'

export const OUTPUT_FORMATS = ['table', 'json', 'yaml'] as const
export type OutputFormat = (typeof OUTPUT_FORMATS)[number]

/** What a command has found or done: data for programs, and text for people. */
export interface View {
  /** Values of the SDK; printed after `toPlain`. */
  readonly data: unknown
  readonly text: (paint: Paint) => string
}

/** A column of a table. */
export interface Column<Row> {
  readonly title: string
  readonly value: (row: Row) => string
}

/** A list, shown as a table; an empty one says so. */
export function tableView<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  empty: string,
): View {
  return {
    data: rows,
    text: (paint) => (rows.length === 0 ? `${empty}\n` : renderTable(rows, columns, paint)),
  }
}

/** One object, shown as a list of fields. */
export function fieldsView(data: unknown, fields: readonly (readonly [string, string])[]): View {
  const width = Math.max(...fields.map(([name]) => name.length))
  return {
    data,
    text: (paint) =>
      fields
        .filter(([, value]) => value !== '')
        .map(([name, value]) => `${paint('bold', name.padEnd(width))}  ${value}\n`)
        .join(''),
  }
}

/** One sentence about what was done. */
export function sentenceView(data: unknown, sentence: string): View {
  return { data, text: () => `${sentence}\n` }
}

/** Columns two spaces apart, as wide as their widest value. */
export function renderTable<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  paint: Paint,
): string {
  const cells = rows.map((row) => columns.map((column) => column.value(row)))
  const widths = columns.map((column, index) =>
    Math.max(column.title.length, ...cells.map((line) => visibleLength(line[index] ?? ''))),
  )
  const line = (texts: readonly string[]): string =>
    texts
      .map((text, index) => text + ' '.repeat((widths[index] ?? 0) - visibleLength(text)))
      .join('  ')
      .trimEnd()
  const head = paint('bold', line(columns.map((column) => column.title)))
  return [head, ...cells.map(line)].map((text) => `${text}\n`).join('')
}

/** The text of a view in the format that was asked for. */
export async function render(view: View, format: OutputFormat, paint: Paint): Promise<string> {
  if (format === 'table') return view.text(paint)
  const plain = toPlain(view.data)
  if (format === 'json') return `${JSON.stringify(plain, undefined, 2)}\n`
  const { stringify } = await import('yaml')
  return stringify(plain)
}

/**
 * Turns values of the SDK into what JSON has: addresses, prefixes and MACs as text, dates as ISO 8601, numbers beyond
 * 2^53 as text.
 */
export function toPlain(value: unknown, name = ''): unknown {
  if (typeof value === 'bigint') {
    return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : String(value)
  }
  if (name === 'mac') return formatMacAddress(value as MacAddress)
  if (value instanceof Date) return value.toISOString()
  if (Array.isArray(value)) return value.map((item) => toPlain(item))
  if (typeof value !== 'object' || value === null) return value
  if (isAddress(value)) return formatIpAddress(value)
  if (isPrefix(value)) return formatPrefix(value)
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, field]) => field !== undefined)
      .map(([key, field]) => [key, toPlain(field, key)]),
  )
}

function isAddress(value: object): value is IpAddress {
  return 'family' in value && 'value' in value
}

function isPrefix(value: object): value is Prefix {
  return 'lengthBits' in value && 'address' in value
}

/** Milliseconds for people: the largest unit that leaves a number of at least 1. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`
  if (ms < 3_600_000) return `${(ms / 60_000).toFixed(1)} min`
  return `${(ms / 3_600_000).toFixed(1)} h`
}

function visibleLength(text: string): number {
  return stripVTControlCharacters(text).length
}
