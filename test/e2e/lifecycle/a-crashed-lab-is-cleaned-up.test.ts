import assert from 'node:assert/strict'
import { join } from 'node:path'
import test from 'node:test'
import { openLab } from '@weft/lab'
import { ROOT } from '../../check/repository.ts'
import { mustRun, NewPlace, Running, run } from '../../support/place.ts'
import { assertNothingNew, takeStock } from '../support/stock.ts'

const NAME = `t${process.pid}y`
/** One of the commands that the first screen proposes. */
const FIRST_SCREEN = 'weft lab exec'
const START_MS = 120_000
const CLI = join(ROOT, 'libs/cli/src/main.ts')

test('what a killed lab left is removed by the next start and by down, and nothing else is', async () => {
  // Not the lab's, though the name looks like it.
  await using bystander = await NewPlace.make(`${NAME}-bystander`)
  const before = await takeStock()
  await using first = new Running([process.execPath, CLI, 'lab', 'up', '--name', NAME])
  await first.until(FIRST_SCREEN, START_MS)
  process.kill(first.pid, 'SIGKILL')
  // Half of what it started dies as well; the other half lives on without it.
  const lab = openLab(NAME)
  lab.kill('forwarder@alpha', 'SIGKILL')
  lab.kill('nats', 'SIGKILL')

  await mustRun([process.execPath, CLI, 'lab', 'up', '--detach', '--name', NAME], 120_000)
  const ping = [
    'lab',
    'exec',
    '--name',
    NAME,
    'web',
    '--',
    'ping',
    '-c',
    '1',
    '-W',
    '5',
    '10.20.0.13',
  ]
  assert.equal((await run([process.execPath, CLI, ...ping])).code, 0)

  const second = openLab(NAME)
  for (const { name } of second.processes()) second.kill(name, 'SIGKILL')
  await mustRun([process.execPath, CLI, 'lab', 'down', '--name', NAME])
  await assertNothingNew(before)
  await bystander.ip('link show lo')
})

test('Ctrl-C in the foreground removes everything', async () => {
  const before = await takeStock()
  await using lab = new Running([process.execPath, CLI, 'lab', 'up', '--name', NAME])
  await lab.until(FIRST_SCREEN, START_MS)
  process.kill(lab.pid, 'SIGINT')
  await lab.end()
  await assertNothingNew(before)
})
