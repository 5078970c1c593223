import { createPrivateKey, createPublicKey } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Lab } from '@weft/lab'
import { formatIpAddress } from '@weft/net'
import { ROOT } from '../../check/repository.ts'
import { mustRun, type Running } from '../../support/place.ts'
import { at } from './lab.ts'
import { identityOf, type PrivateFolder } from './members.ts'
import { SEALED_PORT } from './nat.ts'

/** Plays those who speak the tunnel's protocol and mean harm; its README says how. */
const ROGUE = join(ROOT, 'libs/shuttle/target/release/weft-rogue')

/** Tunnel key of a host, in hexadecimal digits. */
export function tunnelKeysOf(
  lab: Lab,
  host: string,
): { readonly secret: string; readonly open: string } {
  const pem = readFileSync(join(identityOf(lab, host), 'tunnel.key'), 'utf8')
  const { d = '' } = createPrivateKey(pem).export({ format: 'jwk' })
  const { x = '' } = createPublicKey(pem).export({ format: 'jwk' })
  const hex = (word: string): string => Buffer.from(word, 'base64url').toString('hex')
  return { secret: hex(d), open: hex(x) }
}

/** A file with initiations of strangers to the one who has a public key, in hexadecimal digits, to be thrown `again`. */
export async function makeInitiations(
  publicKey: string,
  count: number,
  folder: PrivateFolder,
): Promise<string> {
  const file = folder.write('initiations', '')
  await mustRun([ROGUE, 'initiations', publicKey, String(count), file])
  return file
}

export interface Saying {
  /** From its Ethernet header on, in hexadecimal digits. */
  readonly frame: string
  /** The networks that the frames are said to be of, one after the other. */
  readonly vnis: readonly number[]
  readonly count: number
  /** A second. */
  readonly rate: number
  /** Seconds by which its clock is ahead; 0 unless given. A host that was restarted is up to a minute ahead with its stamps. */
  readonly aheadS?: number
}

export interface Said {
  readonly sent: number
  readonly heard: number
}

/** Whether a session came to be, and what was said in it. */
export class Rogue implements AsyncDisposable {
  readonly #running: Running

  private constructor(running: Running) {
    this.#running = running
  }

  /**
   * Takes the place of a host's shuttle, which does not run, and talks to another host under a tunnel key, by default the one
   * of the host whose place it takes. Several at one host are told apart by their index.
   */
  static async start(
    lab: Lab,
    host: string,
    to: string,
    saying: Saying,
    folder: PrivateFolder,
    secret: string = tunnelKeysOf(lab, host).secret,
    index: number = 0,
  ): Promise<Rogue> {
    const plan = folder.write(
      `plan-${index}.json`,
      JSON.stringify({
        ...saying,
        privateKey: secret,
        peerKey: tunnelKeysOf(lab, to).open,
        listen: `0.0.0.0:${SEALED_PORT + index}`,
        to: `${underlayOf(lab, to)}:${SEALED_PORT}`,
      }),
    )
    const running = at(lab, host).start([ROGUE, 'member', plan])
    await running.until('"event"')
    return new Rogue(running)
  }

  /** Waits until it has said all; undefined where there was no session. */
  async end(): Promise<Said | undefined> {
    const lines = await this.#running.end()
    if (lines.some((line) => line.includes('"refused"'))) return undefined
    return JSON.parse(lines.at(-1) ?? 'null') as Said
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#running[Symbol.asyncDispose]()
  }
}

function underlayOf(lab: Lab, host: string): string {
  const [first] = lab.weftHosts.find(({ name }) => name === host)?.underlayAddresses ?? []
  if (first === undefined) throw new RangeError(`${host} has no address`)
  return formatIpAddress(first.address)
}
