/**
 * `npm run bench [-- NAME…] [--json FILE] [--runs N]`: measures us and our peers in one run and holds the figures against the bars.
 * Ends with 1 if a bar is missed.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { type Lab, type LabOptions, startLab } from '@weft/lab'
import { attach } from './attach.ts'
import type { BenchContext, RunContext } from './context.ts'
import { direct, directWithoutOffloads } from './direct.ts'
import { enrolment } from './enrolment.ts'
import { FLOW_IDLE_S, firstPacket } from './first-packet.ts'
import { idleMemory } from './idle-memory.ts'
import { join } from './join.ts'
import { describeMachine } from './machine.ts'
import { mutualTls } from './mutual-tls.ts'
import { renewals } from './renewals.ts'
import { formatNotes, formatTable, type Result } from './result.ts'
import { revocation } from './revocation.ts'
import { sameHost } from './same-host.ts'

type Benches<C> = Readonly<Record<string, (context: C) => Promise<Result[]>>>

const BENCHES_WITHOUT_LAB: Benches<RunContext> = { 'mutual-tls': mutualTls }

const FORGETFUL = { WEFT_SHUTTLE_FLOW_IDLE_S: String(FLOW_IDLE_S) }
/** Its forwarder writes down when tables are in force. */
const TALKATIVE = { WEFT_LOG_LEVEL: 'debug' }

/** Labs, one after the other, with what is measured in each. */
const STAGES: readonly { readonly lab: LabOptions; readonly benches: Benches<BenchContext> }[] = [
  {
    lab: { env: { 'shuttle@alpha': FORGETFUL, 'shuttle@beta': FORGETFUL } },
    // In this order: what others leave behind would change what an idle process holds.
    benches: {
      'idle-memory': idleMemory,
      'same-host': sameHost,
      direct,
      'direct-without-offloads': directWithoutOffloads,
      attach,
      'first-packet': firstPacket,
      join,
    },
  },
  {
    lab: { configReplicas: 3, env: { 'forwarder@alpha': TALKATIVE, 'forwarder@beta': TALKATIVE } },
    // In this order: hosts that have joined, and keys that are void, stay.
    benches: { renewals, revocation, enrolment },
  },
]
const NAMES: readonly string[] = [
  ...Object.keys(BENCHES_WITHOUT_LAB),
  ...STAGES.flatMap(({ benches }) => Object.keys(benches)),
]
const RUNS = 5

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { json: { type: 'string' }, runs: { type: 'string', default: String(RUNS) } },
})
const runs = Number(values.runs)
const unknown = positionals.filter((name) => !NAMES.includes(name))
if (unknown.length > 0 || !Number.isInteger(runs) || runs < 1) {
  console.error(
    unknown.length > 0
      ? `error: no bench is called ${unknown.join(', ')}`
      : 'error: --runs takes a number',
  )
  console.error(`try: npm run bench -- [${NAMES.join(' | ')}]… [--json FILE] [--runs N]`)
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
  const context = { runs: rounds, prefix: `b${process.pid}` }
  const results = await runAll(BENCHES_WITHOUT_LAB, names, context)
  for (const { lab: options, benches } of STAGES) {
    if (names.length > 0 && !names.some((name) => Object.hasOwn(benches, name))) continue
    await using lab: Lab = await startLab({ topology: 'pair', name: context.prefix, ...options })
    results.push(...(await runAll(benches, names, { ...context, lab })))
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

/** Those that are wanted; all where none is named. */
async function runAll<C>(
  benches: Benches<C>,
  names: readonly string[],
  context: C,
): Promise<Result[]> {
  const results: Result[] = []
  for (const [name, bench] of Object.entries(benches)) {
    if (names.length > 0 && !names.includes(name)) continue
    console.log(`\n-- ${name}`)
    const found = await bench(context)
    console.log(`${formatTable(found)}\n${formatNotes(found)}`)
    results.push(...found)
  }
  return results
}
