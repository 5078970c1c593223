import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'

/** A TCP port at which connections hang: it is listened on, and no SYN is answered, as if the packets got lost. */
export interface FullListener extends AsyncDisposable {
  readonly port: number
  /** Sockets that try to connect to it. */
  connecting(): Promise<number>
}

/** A listener with a queue for one connection takes two (listen(2); Linux, `sk_acceptq_is_full`); nobody accepts them. */
const QUEUE_TAKES = 2

const LISTEN_AND_SLEEP = `
const server = require('node:net').createServer()
server.listen({ host: '127.0.0.1', port: 0, backlog: 1 }, () => {
  require('node:fs').writeSync(1, server.address().port + '\\n')
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
})`

export async function startFullListener(): Promise<FullListener> {
  await using opened = new AsyncDisposableStack()
  const child = spawn(process.execPath, ['-e', LISTEN_AND_SLEEP], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = once(child, 'exit')
  opened.defer(async () => {
    child.kill('SIGKILL')
    await ended
  })
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  const port = Number(line.toString())
  const fillers: Socket[] = []
  opened.defer(() => {
    for (const socket of fillers) socket.destroy()
  })
  for (let index = 0; index < QUEUE_TAKES; index++) {
    const socket = connect(port, '127.0.0.1').on('error', () => undefined)
    fillers.push(socket)
    await once(socket, 'connect')
  }
  const kept = opened.move()
  return {
    port,
    connecting: () => synSentTo(port),
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  }
}

/** Counts in `/proc/net/tcp`: remote address and state are the third and fourth column, 02 is SYN_SENT. */
async function synSentTo(port: number): Promise<number> {
  const remote = `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const lines = (await readFile('/proc/self/net/tcp', 'utf8')).split('\n')
  return lines.filter((line) => {
    const [, , target, state] = line.trim().split(/\s+/)
    return target === remote && state === '02'
  }).length
}
