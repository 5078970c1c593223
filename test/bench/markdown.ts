import type { Machine } from './machine.ts'
import type { Result } from './result.ts'

/** What `--json` writes. */
export interface Run {
  readonly machine: Machine
  readonly results: readonly Result[]
}

/** A run as the README shows it: where and of what it was measured, a table, and who the peers were. */
export function formatMarkdown({ machine, results }: Run): string {
  return [`${describe(machine)}:`, '', ...table(results), '', ...peersAbout(results)].join('\n')
}

function describe(machine: Machine): string {
  const { cores, processor, memoryGib, kernel, tcp, commit, date, load } = machine
  return `${cores}-core ${processor}, ${memoryGib} GiB, Linux ${kernel} (TCP: ${tcp}), commit ${commit}, ${date}, load ${load} before`
}

function table(results: readonly Result[]): string[] {
  const head = ['bench', 'ours', 'peers, same run', 'ratio', 'bar', '']
  const rows = results.map((result) => [
    result.bench,
    result.ours === null ? '' : `${formatNumber(result.ours)} ${result.unit}`,
    Object.entries(result.peers)
      .map(([name, value]) => `${name} ${formatNumber(value)}`)
      .join(', '),
    result.ratio === null ? '' : `${result.ratio.toFixed(2)}x`,
    formatBar(result),
    result.bar === null ? '' : result.pass ? 'pass' : '**missed**',
  ])
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)]
}

function formatBar({ bar, unit }: Result): string {
  if (bar === null) return ''
  const sign = bar.kind === 'at-least' ? '≥' : '≤'
  return bar.versus === undefined
    ? `${sign} ${formatNumber(bar.value)} ${unit}`
    : `${sign} ${bar.value}x ${bar.versus}`
}

/** Three digits that say something, and thousands apart. */
function formatNumber(value: number): string {
  if (value >= 1000) return Math.round(value).toLocaleString('en-US')
  return String(Number(value.toPrecision(3)))
}

/** Each once. */
function peersAbout(results: readonly Result[]): string[] {
  const all = new Map(results.flatMap(({ peersAbout = {} }) => Object.entries(peersAbout)))
  return [...all].map(([name, about]) => `- ${name}: ${about}`)
}
