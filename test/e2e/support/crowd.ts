/**
 * Many that join with one token at once, each with keys of its own, at all replicas. Whoever gets no answer asks again with the
 * same keys, as a person would, until it knows. Prints a line of JSON: how often each outcome was, an id or the code and reason
 * of the error.
 *
 * Arguments: how many, fingerprint, file with the token, folder for their identities, addresses of the enrolment listeners.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { joinHost } from '@weft/domain/enrolment'
import { asWeftError, ExitCode } from '@weft/errors'
import { UNAVAILABLE_CODES } from './errors.ts'

const GIVE_UP_MS = 60_000
const PAUSE_MAX_MS = 500

const [count = '', fingerprint = '', tokenFile = '', folder = '', ...replicas] =
  process.argv.slice(2)
const token = readFileSync(tokenFile, 'utf8').trim()
console.log('ready')
const outcomes = new Map<string, number>()
await Promise.all(
  Array.from({ length: Number(count) }, async (_, index) => {
    const outcome = await enter(index)
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
  }),
)
console.log(JSON.stringify(Object.fromEntries(outcomes)))

async function enter(index: number): Promise<string> {
  const giveUpAt = Date.now() + GIVE_UP_MS
  for (let attempt = 0; ; attempt++) {
    try {
      const { identity } = await joinHost({
        control: replicas[(index + attempt) % replicas.length] ?? '',
        fingerprint,
        token,
        folder: join(folder, String(index)),
        name: `crowd-${index}`,
        addresses: [],
        capabilities: [],
        wireVersions: [],
      })
      return `host ${identity.id}`
    } catch (error) {
      const { code, facts, exitCode } = asWeftError(error)
      const isUnclear = UNAVAILABLE_CODES.includes(code) || exitCode === ExitCode.Unavailable
      if (!isUnclear || Date.now() > giveUpAt) return [code, facts['reason'] ?? ''].join(' ').trim()
      await sleep(Math.random() * PAUSE_MAX_MS)
    }
  }
}
