/**
 * `npm run bench [-- NAME…] [--json FILE] [--runs N]`: measures us and our peers in one run and holds the figures against the bars.
 * Ends with 1 if a bar is missed.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { startLab } from '@weft/lab'
import { attach } from './attach.ts'
import type { BenchContext } from './context.ts'
import { direct, directWithoutOffloads } from './direct.ts'
import { FLOW_IDLE_S, firstPacket } from './first-packet.ts'
import { idleMemory } from './idle-memory.ts'
import { describeMachine } from './machine.ts'
import { formatTable, type Result } from './result.ts'
import { sameHost } from './same-host.ts'

/** In this order: what others leave behind would change what an idle process holds. */
const BENCHES: Readonly<Record<string, (context: BenchContext) => Promise<Result[]>>> = {
  'idle-memory': idleMemory,
  'same-host': sameHost,
  direct,
  'direct-without-offloads': directWithoutOffloads,
  attach,
  'first-packet': firstPacket,
}
const RUNS = 5

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { json: { type: 'string' }, runs: { type: 'string', default: String(RUNS) } },
})
const runs = Number(values.runs)
const unknown = positionals.filter((name) => !Object.hasOwn(BENCHES, name))
if (unknown.length > 0 || !Number.isInteger(runs) || runs < 1) {
  console.error(
    unknown.length > 0
      ? `error: no bench is called ${unknown.join(', ')}`
      : 'error: --runs takes a number',
  )
  console.error(
    `try: npm run bench -- [${Object.keys(BENCHES).join(' | ')}]… [--json FILE] [--runs N]`,
  )
  process.exitCode = 2
} else {
  process.exitCode = await main(positionals, runs, values.json)
}

async function main(
  names: readonly string[],
  rounds: number,
  jsonFile: string | undefined,
): Promise<number> {
  const machine = describeMachine()
  console.log(
    Object.entries(machine)
      .map(([name, value]) => `${name} ${value}`)
      .join(', '),
  )
  const prefix = `b${process.pid}`
  const env = { WEFT_SHUTTLE_FLOW_IDLE_S: String(FLOW_IDLE_S) }
  await using lab = await startLab({
    topology: 'pair',
    name: prefix,
    env: { 'shuttle@alpha': env, 'shuttle@beta': env },
  })
  const results: Result[] = []
  for (const [name, bench] of Object.entries(BENCHES)) {
    if (names.length > 0 && !names.includes(name)) continue
    console.log(`\n-- ${name}`)
    const found = await bench({ lab, runs: rounds, prefix })
    console.log(formatTable(found))
    results.push(...found)
  }
  if (jsonFile !== undefined) {
    writeFileSync(jsonFile, `${JSON.stringify({ machine, results }, undefined, 2)}\n`)
  }
  const missed = results.filter((result) => !result.pass)
  console.log(
    `\n${results.length} bars, ${missed.length === 0 ? 'all met' : `${missed.length} missed`}`,
  )
  return missed.length === 0 ? 0 : 1
}
