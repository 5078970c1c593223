/** What a bench found: our figure, those of the peers in the same run, and whether it is good enough. */
export interface Result {
  readonly bench: string
  readonly unit: string
  /** Null where the peers were measured alone. */
  readonly ours: number | null
  readonly peers: Readonly<Record<string, number>>
  /** Ours by the peer that the bar names; null for an absolute bar. */
  readonly ratio: number | null
  /** Null where nothing is asked. */
  readonly bar: Bar | null
  readonly pass: boolean
  /** Medians are of this many runs, or a quantile is of this many samples. */
  readonly samples: number
  /** What was offered, where that is not what was measured. */
  readonly offered?: string
  /** Versions and settings of peers, by name. */
  readonly peersAbout?: Readonly<Record<string, string>>
}

/** `at-least` and `at-most` hold for the ratio to a peer where one is named, else for the figure itself. */
export interface Bar {
  readonly kind: 'at-least' | 'at-most'
  readonly value: number
  readonly versus?: string
}

export interface Measured {
  readonly bench: string
  readonly unit: string
  readonly ours: number | null
  readonly peers?: Readonly<Record<string, number>>
  readonly samples: number
  readonly offered?: string
}

/** Holds a figure against a bar. */
export function judge(measured: Measured, bar: Bar): Result {
  const { bench, ours, peers = {} } = measured
  if (ours === null) throw new RangeError(`${bench} has no figure of ours`)
  const peer = bar.versus === undefined ? undefined : peers[bar.versus]
  if (bar.versus !== undefined && peer === undefined) {
    throw new RangeError(`${bench} has no peer ${bar.versus}`)
  }
  const ratio = peer === undefined ? null : ours / peer
  const judged = ratio ?? ours
  const pass = bar.kind === 'at-least' ? judged >= bar.value : judged <= bar.value
  return { ...measured, peers, ratio, bar, pass }
}

/** A figure of which nothing is asked. */
export function unjudged(measured: Measured): Result {
  return { ...measured, peers: measured.peers ?? {}, ratio: null, bar: null, pass: true }
}

/** Middle of a row; the mean of the two middle ones for an even count. */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError('no median of nothing')
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? 0
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2
}

/** Value at `share` (0 to 1), by the nearest rank. */
export function quantile(values: readonly number[], share: number): number {
  if (values.length === 0) throw new RangeError('no quantile of nothing')
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.max(1, Math.ceil(share * sorted.length)) - 1] ?? 0
}

/** Results as rows of equal width. */
export function formatTable(results: readonly Result[]): string {
  const rows = [
    ['bench', 'ours', 'peers', 'ratio', 'bar', ''],
    ...results.map((result) => [
      result.bench,
      `${result.ours === null ? '' : formatNumber(result.ours)} ${result.unit}`.trimStart(),
      Object.entries(result.peers)
        .map(([name, value]) => `${name} ${formatNumber(value)}`)
        .join(', '),
      result.ratio === null ? '' : `${result.ratio.toFixed(2)}x`,
      formatBar(result),
      result.bar === null ? '' : result.pass ? 'pass' : 'FAIL',
    ]),
  ]
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  )
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

/** What the table has no room for: how many samples, and what was offered or seen besides. */
export function formatNotes(results: readonly Result[]): string {
  return results
    .map(({ bench, samples, offered }) => {
      const also = offered === undefined ? '' : `; ${offered}`
      return `  ${bench}: n ${samples}${also}`
    })
    .join('\n')
}

function formatBar({ bar, unit }: Result): string {
  if (bar === null) return ''
  const sign = bar.kind === 'at-least' ? '>=' : '<='
  const value = bar.versus === undefined ? `${bar.value} ${unit}` : `${bar.value}x ${bar.versus}`
  return `${sign} ${value}`
}

function formatNumber(value: number): string {
  return value >= 1000 ? value.toFixed(0) : value.toPrecision(3)
}
