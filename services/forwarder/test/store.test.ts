import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { BrokenInputError } from '@weft/errors'
import { temporaryFolder } from '@weft/testing'
import { HostRows } from '../src/domain/host-rows.ts'
import type { Port } from '../src/domain/ports.ts'
import { endpointOf, networkOf, put, selfOf } from '../src/domain/samples.ts'
import {
  decodeClock,
  decodeHostState,
  decodeRows,
  encodeClock,
  encodeHostState,
  encodeRows,
  type HostState,
} from '../src/state.ts'
import { load, StateFile } from '../src/store.ts'

test('what was written is read again, and the last of several writes wins', async () => {
  await using folder = await temporaryFolder()
  const file = new StateFile(folder.path, 'host', 1)

  await Promise.all(['one', 'two', 'three'].map((text) => file.write(Buffer.from(text))))

  assert.equal((await file.read())?.toString(), 'three')
  assert.deepEqual(await readdir(folder.path), ['host'])
})

test('a file that is not there is not an error', async () => {
  await using folder = await temporaryFolder()

  assert.equal(await new StateFile(folder.path, 'host', 1).read(), undefined)
})

test('a file with any byte changed, cut off, or of another version is refused', async () => {
  await using folder = await temporaryFolder()
  const file = new StateFile(folder.path, 'host', 1)
  await file.write(Buffer.from('some state'))
  const good = await readFile(file.path)

  for (const index of [0, 20, good.length - 1]) {
    const bad = Buffer.from(good)
    bad[index] = (bad[index] ?? 0) ^ 0x20
    await writeFile(file.path, bad)
    await assert.rejects(file.read(), BrokenInputError)
  }
  await writeFile(file.path, good.subarray(0, good.length - 3))
  await assert.rejects(file.read(), BrokenInputError)
  await writeFile(file.path, good)
  await assert.rejects(new StateFile(folder.path, 'host', 2).read(), /version 1/)
})

test('a file of an older version that can be read is read, and written as the present one', async () => {
  await using folder = await temporaryFolder()
  const older = new StateFile(folder.path, 'host', 2)
  const file = new StateFile(folder.path, 'host', 3, [2])
  await older.write(Buffer.from('some state'))

  assert.equal((await file.read())?.toString(), 'some state')
  await file.write(Buffer.from('newer'))

  await assert.rejects(older.read(), /version 3/)
})

test('a broken file is moved aside and counts as missing', async () => {
  await using folder = await temporaryFolder()
  const file = new StateFile(folder.path, 'host', 1)
  await writeFile(file.path, 'not ours')

  const { value, movedAside } = await load(file, (body) => body, 42)

  assert.equal(value, undefined)
  assert.match(movedAside?.problem ?? '', /no header/)
  assert.deepEqual(await readdir(folder.path), ['host.broken-42'])
})

test('the state of a host survives its way to disk', () => {
  const port: Port = {
    endpoint: endpointOf(10, { hostId: 1, epoch: 0n }),
    network: networkOf(1),
    attachment: { kind: 'netns', path: '/run/netns/web', device: 'eth0', keepRoutes: true },
    attachedAtUnixMs: 5,
    assignedRevision: 6n,
    sequence: 7n,
  }
  const client: Port = {
    ...port,
    endpoint: endpointOf(12, { hostId: 1, epoch: 0n }),
    attachment: { kind: 'wireguard', publicKey: '01', presharedKey: '02', hostKey: '03' },
  }
  const { id, networkId, addresses } = endpointOf(11)
  const state: HostState = {
    domain: 'lab.example',
    hostId: 1,
    hostName: 'alpha',
    leaseId: 'lease',
    sequence: 2n ** 60n,
    ports: [port, client],
    releases: [{ name: 'acme/blue/db', endpointId: id, networkId, addresses, sequence: 8n }],
    lockedTenants: ['acme'],
  }

  assert.deepEqual(decodeHostState(encodeHostState(state)), state)
})

test('rows survive their way to disk as they came, with what is known of them', () => {
  const rows = new HostRows()
  rows.apply(put({ kind: 'self', value: selfOf() }, 3n, 2n ** 50n))
  rows.apply(put({ kind: 'network', value: networkOf(1) }, 4n))
  rows.apply(put({ kind: 'endpoint', value: endpointOf(20) }, 2n ** 40n))

  const decoded = decodeRows(Buffer.from(encodeRows(rows)))

  assert.equal(decoded.newestConfigRevision, 2n ** 40n)
  assert.equal(decoded.hasRunOut, false)
  assert.deepEqual(
    decoded.proofs.map((proof) => Buffer.from(proof)),
    [...rows.all()].map(({ proof }) => proof),
  )
})

test('the clock survives its way to disk', () => {
  assert.equal(decodeClock(Buffer.from(encodeClock(1_234_567_890_123))), 1_234_567_890_123)
})
