/**
 * `npm test [-- TIER…]` runs the tiers one after the other and ends with a line `N passed, N failed, N skipped`.
 * `npm run torture [-- NAME…]` runs the full form of the scenarios, and of the tests of parsers, whose file name contains one of the names.
 */
import { performance } from 'node:perf_hooks'
import { addCounts, type Counts, formatCounts, NOTHING } from './runner/counts.ts'
import { TIERS, tortureTier } from './runner/tiers.ts'

const [first, ...rest] = process.argv.slice(2)
const isTorture = first === '--torture'
const names = isTorture || first === undefined ? rest : [first, ...rest]
const unknown = isTorture ? [] : names.filter((name) => !TIERS.some((tier) => tier.name === name))
if (unknown.length > 0) {
  console.error(`error: no tier is called ${unknown.join(', ')}`)
  console.error(`try: ${TIERS.map((tier) => tier.name).join(', ')}`)
  process.exitCode = 2
} else {
  const chosen = isTorture
    ? [tortureTier(names)]
    : TIERS.filter((tier) => names.length === 0 || names.includes(tier.name))
  const startedAt = performance.now()
  let counts: Counts = NOTHING
  for (const tier of chosen) {
    console.log(`\n== ${tier.name}: ${tier.what}`)
    counts = addCounts(counts, await tier.run())
  }
  const seconds = Math.round((performance.now() - startedAt) / 1000)
  const isEmpty = counts.passed + counts.failed + counts.skipped === 0
  if (isEmpty)
    console.log('\nerror: nothing was run\ntry: the name of a scenario, as in test/e2e, or parsers')
  console.log(`\n${formatCounts(counts)} in ${seconds} s`)
  process.exitCode = counts.failed > 0 || isEmpty ? 1 : 0
}
