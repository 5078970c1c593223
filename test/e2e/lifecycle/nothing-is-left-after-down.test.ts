import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'node:test'
import { ROOT } from '../../check/repository.ts'
import { mustRun, run } from '../../support/place.ts'
import { assertNothingNew, takeStock } from '../support/stock.ts'

const NAME = `t${process.pid}x`

test('a lab works from a clone in a folder that only root reads, and leaves nothing behind', async (t) => {
  await using clone = await rootOnlyClone()
  const before = await takeStock()
  const lab = (...argv: string[]): Promise<string> =>
    mustRun(
      [process.execPath, join(clone.path, 'libs/cli/src/main.ts'), 'lab', ...argv, '--name', NAME],
      120_000,
    )

  await using _ = { [Symbol.asyncDispose]: async () => void (await lab('down')) }
  const startedAt = Date.now()
  await lab('up', '--detach')
  t.diagnostic(`up after ${Date.now() - startedAt} ms`)
  const argv = [
    process.execPath,
    join(clone.path, 'libs/cli/src/main.ts'),
    'lab',
    'exec',
    '--name',
    NAME,
  ]
  const ping = await run([
    ...argv,
    'web',
    '--',
    'ping',
    '-c',
    '3',
    '-i',
    '0.2',
    '-W',
    '5',
    '10.20.0.13',
  ])
  assert.equal(ping.code, 0, ping.stdout + ping.stderr)
  assert.equal((await run([...argv, 'web', '--', 'sh', '-c', 'exit 42'])).code, 42)
  await lab('down')
  await assertNothingNew(before)
  // Nothing to do is no mistake.
  await lab('down')
})

/** The clone that this test runs from, seen through a folder that only root may enter. */
async function rootOnlyClone(): Promise<AsyncDisposable & { readonly path: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'weft-test-'))
  const path = join(folder, 'clone')
  await mkdir(path)
  await mustRun(['chmod', '700', folder])
  await mustRun(['mount', '--bind', ROOT, path])
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      await mustRun(['umount', path])
      await rm(folder, { recursive: true })
    },
  }
}
