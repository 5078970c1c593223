/**
 * `npm run bench [-- NAME…] [--json FILE] [--runs N] [--tcp KIND] [--peers-only]`: measures us and our peers in one run and holds
 * the figures against the bars. Ends with 1 if a bar is missed. The peers of `sealed` can be measured alone, without a lab. `KIND` is
 * the congestion control under which throughput is measured, by default the machine's own.
 *
 * `npm run bench -- --table FILE` measures nothing: it prints what a run wrote to the file as the README has it.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type Lab, type LabOptions, startLab } from '@weft/lab'
import { attach } from './attach.ts'
import type { BenchContext, RunContext } from './context.ts'
import { direct, directWithoutOffloads } from './direct.ts'
import { enrolment } from './enrolment.ts'
import { FLOW_IDLE_S, firstPacket } from './first-packet.ts'
import { idleMemory } from './idle-memory.ts'
import { join } from './join.ts'
import { congestionControls, describeMachine } from './machine.ts'
import { formatMarkdown, type Run } from './markdown.ts'
import { mutualTls } from './mutual-tls.ts'
import { renewals } from './renewals.ts'
import { formatNotes, formatTable, type Result } from './result.ts'
import { revocation } from './revocation.ts'
import { sameHost } from './same-host.ts'
import { sealed, sealedPeers } from './sealed.ts'

type Benches<C> = Readonly<Record<string, (context: C) => Promise<Result[]>>>

const BENCHES_WITHOUT_LAB: Benches<RunContext> = { 'mutual-tls': mutualTls }

const BENCHES_OF_PEERS: Benches<RunContext> = { sealed: sealedPeers }

/** Two hosts on one wire, whose network goes plain between them. */
const PLAIN_PAIR = fileURLToPath(new URL('plain-pair.yaml', import.meta.url))
const FORGETFUL = { WEFT_SHUTTLE_FLOW_IDLE_S: String(FLOW_IDLE_S) }
/** Its forwarder writes down when tables are in force. */
const TALKATIVE = { WEFT_LOG_LEVEL: 'debug' }

/** Labs, one after the other, with what is measured in each. */
const STAGES: readonly { readonly lab: LabOptions; readonly benches: Benches<BenchContext> }[] = [
  {
    lab: {
      topology: PLAIN_PAIR,
      env: { 'shuttle@alpha': FORGETFUL, 'shuttle@beta': FORGETFUL },
    },
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
  { lab: { topology: 'pair' }, benches: { sealed } },
  {
    lab: {
      topology: PLAIN_PAIR,
      configReplicas: 3,
      env: { 'forwarder@alpha': TALKATIVE, 'forwarder@beta': TALKATIVE },
    },
    // In this order: hosts that have joined, and keys that are void, stay.
    benches: { renewals, revocation, enrolment },
  },
]
const NAMES: readonly string[] = [
  ...Object.keys(BENCHES_WITHOUT_LAB),
  ...STAGES.flatMap(({ benches }) => Object.keys(benches)),
]
const RUNS = 5
/** What a shell reports of a program that Ctrl-C has ended. */
const EXIT_INTERRUPTED = 130

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'string' },
    runs: { type: 'string', default: String(RUNS) },
    'peers-only': { type: 'boolean', default: false },
    table: { type: 'string' },
    tcp: { type: 'string' },
  },
})
const runs = Number(values.runs)
const controls = congestionControls()
const tcp = values.tcp ?? controls[0] ?? ''
const isPeersOnly = values['peers-only']
const known = isPeersOnly ? Object.keys(BENCHES_OF_PEERS) : NAMES
const unknown = positionals.filter((name) => !known.includes(name))
const problem =
  unknown.length > 0
    ? `no bench${isPeersOnly ? ' of peers' : ''} is called ${unknown.join(', ')}`
    : !Number.isInteger(runs) || runs < 1
      ? '--runs takes a number'
      : !controls.includes(tcp)
        ? `this kernel's TCP has no congestion control ${tcp}; it has ${controls.join(', ')}`
        : undefined
if (values.table !== undefined) {
  console.log(formatMarkdown(JSON.parse(readFileSync(values.table, 'utf8')) as Run))
} else if (problem !== undefined) {
  console.error(`error: ${problem}`)
  const options = `[--json FILE] [--runs N] [--tcp KIND]${isPeersOnly ? ' --peers-only' : ''}`
  console.error(`try: npm run bench -- [${known.join(' | ')}]… ${options}`)
  process.exitCode = 2
} else {
  const signal = untilInterrupted()
  try {
    process.exitCode = await main(positionals, { runs, signal, tcp }, values.json)
  } catch (error) {
    if (!signal.aborted) throw error
    console.error(`error: ${String(signal.reason)}`)
    process.exitCode = EXIT_INTERRUPTED
  }
}

/** Aborts at the first request to end, so that everything that was started is stopped; a second one ends at once. */
function untilInterrupted(): AbortSignal {
  const interrupt = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => interrupt.abort(`ended by ${signal}`))
  }
  return interrupt.signal
}

async function main(
  names: readonly string[],
  options: Omit<RunContext, 'prefix'>,
  jsonFile: string | undefined,
): Promise<number> {
  const machine = describeMachine(options.tcp)
  console.log(
    Object.entries(machine)
      .map(([name, value]) => `${name} ${value}`)
      .join(', '),
  )
  const context: RunContext = { ...options, prefix: `b${process.pid}` }
  const results: Result[] = isPeersOnly
    ? await runAll(BENCHES_OF_PEERS, names, context)
    : await runAll(BENCHES_WITHOUT_LAB, names, context)
  for (const { lab: options, benches } of isPeersOnly ? [] : STAGES) {
    if (names.length > 0 && !names.some((name) => Object.hasOwn(benches, name))) continue
    const { prefix: name, signal } = context
    await using lab: Lab = await startLab({ name, signal, ...options })
    results.push(...(await runAll(benches, names, { ...context, lab })))
  }
  if (jsonFile !== undefined) {
    const run: Run = { machine, results }
    writeFileSync(jsonFile, `${JSON.stringify(run, undefined, 2)}\n`)
  }
  const bars = results.filter(({ bar }) => bar !== null)
  const missed = bars.filter(({ pass }) => !pass)
  console.log(
    `\n${bars.length} bars, ${missed.length === 0 ? 'all met' : `${missed.length} missed`}`,
  )
  return missed.length === 0 ? 0 : 1
}

/** Those that are wanted; all where none is named. */
async function runAll<C extends RunContext>(
  benches: Benches<C>,
  names: readonly string[],
  context: C,
): Promise<Result[]> {
  const results: Result[] = []
  for (const [name, bench] of Object.entries(benches)) {
    if (names.length > 0 && !names.includes(name)) continue
    context.signal.throwIfAborted()
    console.log(`\n-- ${name}`)
    const found = await bench(context)
    console.log(`${formatTable(found)}\n${formatNotes(found)}`)
    results.push(...found)
  }
  return results
}
