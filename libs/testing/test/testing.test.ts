import assert from 'node:assert/strict'
import { access, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import {
  createNetns,
  eventually,
  freePort,
  skipUnlessRoot,
  startNats,
  temporaryFolder,
} from '../src/index.ts'

test('eventually answers what the probe found, or throws its last error', async () => {
  let tries = 0
  assert.equal(await eventually(() => (++tries === 3 ? 'found' : undefined)), 'found')
  const failing = (): never => {
    throw new Error('not yet')
  }
  await assert.rejects(eventually(failing, 30), /not yet/)
  await assert.rejects(
    eventually(() => false, 30),
    /did not become true within 30 ms/,
  )
})

test('a temporary folder is removed with what is in it', async () => {
  let kept: string
  {
    await using folder = await temporaryFolder()
    kept = folder.path
    await writeFile(`${kept}/file`, '')
  }
  await assert.rejects(access(kept))
})

test('a server of NATS is killed and comes back on its port', async () => {
  await using nats = await startNats()
  const port = Number(nats.url.split(':').at(-1))
  assert.notEqual(await freePort(), port)
  await nats.kill()
  await nats.start()
})

test('a namespace has its own loopback and is removed', { skip: skipUnlessRoot() }, async () => {
  let path: string
  {
    await using netns = await createNetns('self')
    path = netns.path
    assert.match(await netns.exec('ip', '-o', 'link'), /^1: lo: <LOOPBACK,UP[^\n]*\n$/)
  }
  await assert.rejects(access(path))
})
