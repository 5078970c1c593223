import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import test from 'node:test'
import { fileURLToPath } from 'node:url'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { BLUE, establish, routedLab, target } from '../support/blue.ts'
import { at, scaled } from '../support/lab.ts'
import { assertNothingLost, Traffic } from '../support/traffic.ts'

const RATE = 10_000
const FLOWS = 4
const NEXT_VERSION = 'next'
const SHUTTLE = 'shuttle@alpha'
const WORKSPACE = fileURLToPath(new URL('../../../libs/shuttle', import.meta.url))
const [web, db, api] = BLUE

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test(`a shuttle that ends by ${signal} and starts anew on the same maps loses no packet`, async (t) => {
    const lab = await routedLab()
    await using load = await startLoad(lab)
    for (let count = 0; count < scaled(2, 10); count++) {
      await lab.restart(SHUTTLE, signal)
      await untilJoined(lab)
    }
    for (const fact of await load.assertNothingLost()) t.diagnostic(fact)
  })
}

test('a shuttle of another build takes over the maps and gives them back without losing a packet', async (t) => {
  const lab = await routedLab()
  const program = await buildNext()
  const { shuttleVersion: version } = await lab.status('alpha')
  assert.notEqual(version, NEXT_VERSION)
  await using own = new AsyncDisposableStack()
  own.defer(async () => {
    await lab.restart(SHUTTLE)
    await untilJoined(lab, version)
  })
  await using load = await startLoad(lab)
  for (let count = 0; count < scaled(1, 10); count++) {
    await lab.restart(SHUTTLE, 'SIGTERM', { program })
    await untilJoined(lab, NEXT_VERSION)
    await lab.restart(SHUTTLE, 'SIGTERM')
    await untilJoined(lab, version)
  }
  for (const fact of await load.assertNothingLost()) t.diagnostic(fact)
})

interface Load extends AsyncDisposable {
  /** Ends it and tells of each target what was sent. */
  assertNothingLost(): Promise<string[]>
}

/** Packets from web to an endpoint at the same host and to one at another. */
async function startLoad(lab: Lab): Promise<Load> {
  await establish(lab, web, [db, api])
  await using made = new AsyncDisposableStack()
  const traffics: Traffic[] = []
  for (const known of [db, api]) {
    const options = { rate: RATE / 2, flows: FLOWS / 2 }
    const traffic = await Traffic.start(at(lab, web.name), target(lab, known), options)
    traffics.push(made.use(traffic))
  }
  const owned = made.move()
  return {
    assertNothingLost: async () => {
      const facts: string[] = []
      for (const traffic of traffics) {
        const loss = await traffic.stop()
        await assertNothingLost(lab, loss)
        facts.push(`${loss.sent} packets, longest silence ${loss.longestSilenceMs.toFixed(1)} ms`)
      }
      return facts
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

/** Waits until the forwarder works with the shuttle, and with that of the version if one is given. */
async function untilJoined(lab: Lab, version?: string): Promise<void> {
  await eventually(async () => {
    const { dependencies, shuttleVersion } = await lab.status('alpha')
    const shuttle = dependencies.find(({ name }) => name === 'shuttle')
    if (shuttle?.health !== 'ok') throw new Error(`the shuttle is ${shuttle?.health}`)
    if (version !== undefined && shuttleVersion !== version) {
      throw new Error(`the shuttle is of version ${shuttleVersion}, not ${version}`)
    }
  })
}

/**
 * Builds a shuttle that says another version of itself, and tells its path. What it consists of is compiled already and shared
 * with the one that set-up has built, but that one stays as it is: the program lies in a folder of its own.
 */
async function buildNext(): Promise<string> {
  const words = ['build', '--release', '--locked', '--workspace', '--bin', 'weft-shuttle']
  const places = ['--target-dir', 'target/next', '--config', 'build.build-dir="target"']
  const cargo = spawn('cargo', [...words, ...places], {
    cwd: WORKSPACE,
    env: { ...process.env, WEFT_BUILD_VERSION: NEXT_VERSION },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let output = ''
  cargo.stderr.on('data', (chunk) => {
    output = `${output}${chunk}`.slice(-4096)
  })
  const code = await new Promise<number | null>((resolve, reject) => {
    cargo.once('error', reject).once('close', resolve)
  })
  assert.equal(code, 0, `cargo build ended with ${code}: ${output}`)
  return join(WORKSPACE, 'target/next/release/weft-shuttle')
}
