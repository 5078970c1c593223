/** WireGuard in user space, as its authors build it. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { goPrograms, type Program, WIREGUARD_GO } from '../bench/peer-programs.ts'

/**
 * Its program, built on first use.
 * @throws MissingPeerError where it cannot be
 */
export async function wireguardGoProgram(): Promise<Program> {
  const [program] = await goPrograms(WIREGUARD_GO)
  if (program === undefined) throw new Error('a module without its command')
  return program
}

/** Speaks the configuration protocol of WireGuard in user space, over its socket. Keys are in hexadecimal digits. */
export async function configureWireguard(path: string, settings: readonly string[]): Promise<void> {
  await ask(path, ['set=1', ...settings])
}

/** What the program knows, a `name=value` a line; the lines of each peer follow its `public_key`. */
export async function readWireguard(path: string): Promise<string[]> {
  return (await ask(path, ['get=1'])).trimEnd().split('\n')
}

async function ask(path: string, lines: readonly string[]): Promise<string> {
  const socket = connect(path)
  await once(socket, 'connect')
  socket.end(`${lines.join('\n')}\n\n`)
  const answer = await text(socket)
  if (!/^errno=0$/m.test(answer)) throw new Error(`wireguard-go answers ${answer.trim()}`)
  return answer
}
