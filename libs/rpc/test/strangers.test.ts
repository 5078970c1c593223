import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { afterEach, test } from 'node:test'
import { eventually } from '@weft/testing'
import { Strangers } from '../src/strangers.ts'

let opened = new AsyncDisposableStack()
afterEach(async () => {
  await opened.disposeAsync()
  opened = new AsyncDisposableStack()
})

test('a source has so many places and no more, until one of its connections closes', async () => {
  const strangers = new Strangers(10, 2)
  const { accepted } = await listening()
  const [first, second, third] = await accepted('127.0.0.2', 3)

  assert.deepEqual([first, second, third].map(taken(strangers)), [true, true, false])
  first.destroy()
  await once(first, 'close')

  assert.equal(strangers.add(third), true)
})

test('when all places are taken the source with the most loses its oldest, for one that has fewer', async () => {
  const strangers = new Strangers(5, 4)
  const { accepted } = await listening()
  const many = await accepted('127.0.0.2', 4)
  const [one] = await accepted('127.0.0.3', 1)
  const others = await accepted('127.0.0.4', 3)
  for (const socket of [...many, one]) assert.equal(strangers.add(socket), true)

  const outcomes = others.map(taken(strangers))

  assert.deepEqual(outcomes, [true, true, false])
  assert.deepEqual(
    many.map(({ destroyed }) => destroyed),
    [true, true, false, false],
  )
  assert.equal(one.destroyed, false)
})

test('a fleet of which each is a source of its own is never cut off for its next: what has begun goes on', async () => {
  const strangers = new Strangers(3, 2)
  const { accepted } = await listening()
  const fleet: Socket[] = []
  for (const source of [2, 3, 4, 5]) fleet.push(...(await accepted(`127.0.0.${source}`, 1)))

  assert.deepEqual(fleet.map(taken(strangers)), [true, true, true, false])
  assert.deepEqual(
    fleet.map(({ destroyed }) => destroyed),
    [false, false, false, false],
  )
})

test('one that is known gives back its place, and stays', async () => {
  const strangers = new Strangers(10, 1)
  const { accepted } = await listening()
  const [first, second] = await accepted('127.0.0.2', 2)
  strangers.add(first)

  strangers.known(first)

  assert.equal(strangers.add(second), true)
  assert.equal(first.destroyed, false)
})

function taken(strangers: Strangers): (socket: Socket) => boolean {
  return (socket) => strangers.add(socket)
}

type Sockets = readonly [Socket, Socket, Socket, ...Socket[]]

/** A server, with what it accepts of connections from an address. */
async function listening(): Promise<{
  readonly accepted: (source: string, count: number) => Promise<Sockets>
}> {
  const here: Socket[] = []
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    here.push(socket)
  })
  opened.defer(() => {
    server.close()
    for (const socket of here) socket.destroy()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { readonly port: number }
  return {
    accepted: async (localAddress, count) => {
      const before = here.length
      for (let index = 0; index < count; index++) {
        const socket = connect({ host: '127.0.0.1', port, localAddress })
        socket.on('error', () => undefined)
        opened.defer(() => void socket.destroy())
      }
      await eventually(() => here.length === before + count)
      return here.slice(before) as unknown as Sockets
    },
  }
}
