/**
 * `npm run check [-- NAME…]`: everything that can be verified without running the product. One line for each check with its time;
 * what failed is shown in full at the end.
 */
import { CHECKS } from './check/checks.ts'
import { runChecks } from './check/run-checks.ts'

const names = process.argv.slice(2)
const unknown = names.filter((name) => !CHECKS.some((check) => check.name === name))
if (unknown.length > 0) {
  console.error(`error: no check is called ${unknown.join(', ')}`)
  console.error(`try: ${CHECKS.map((check) => check.name).join(', ')}`)
  process.exitCode = 2
} else {
  const chosen = names.length === 0 ? CHECKS : CHECKS.filter((check) => names.includes(check.name))
  process.exitCode = (await runChecks(chosen)) ? 0 : 1
}
