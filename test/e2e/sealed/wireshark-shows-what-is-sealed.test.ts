import assert from 'node:assert/strict'
import { chmodSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { ROOT } from '../../check/repository.ts'
import { eventually } from '../../support/eventually.ts'
import { mustRun, run } from '../../support/place.ts'
import { askByTcp, ping, startTcpEcho } from '../../support/probe.ts'
import { BLUE, type Known, sealedLab } from '../support/blue.ts'
import { at } from '../support/lab.ts'
import { PrivateFolder } from '../support/members.ts'

const [web, , api] = BLUE
const DISSECTOR = join(ROOT, 'libs/shuttle/wireshark/weftline.lua')
const FORWARDER = 'forwarder@alpha'
const ECHO_PORT = 7008
/** Their addresses as they stand in an IPv4 header. */
const WEB_TO_API = Buffer.from([10, 20, 0, 11, 10, 20, 0, 13])
/** Probes of paths follow by themselves: once so much of them is in the file, what was before is. */
const BEHIND_BYTES = 8192
/** UDP length of a datagram of one byte: it ends some batches and holds nothing. */
const TAIL = '9'

test('with the key log Wireshark shows the frames inside, without it nothing of them', async (t) => {
  const { code } = await run(['tshark', '--version']).catch(() => ({ code: 1 }))
  if (code !== 0) return t.skip('tshark is not installed')
  const lab = await sealedLab()
  const { vni } = await lab.client.networks.get({ tenant: 'lab', network: 'blue' })
  using folder = new PrivateFolder()
  const capture = await captureOfTalk(lab, folder)
  const shark = new Shark(folder, capture.packets)

  const outside = await shark.rows(['frame.protocols', 'udp.length'])
  const protocols = outside
    .filter((row) => row['udp.length'] !== TAIL)
    .map((row) => row['frame.protocols'])
  assert.deepEqual([...new Set(protocols)], ['eth:ethertype:ip:udp:wg'])
  const text = await shark.text(['-V'])
  for (const { ip4 } of [web, api]) assert.equal(text.includes(ip4), false)
  assert.equal(readFileSync(capture.packets).includes(WEB_TO_API), false)

  const inside = await shark.rows(
    [
      ...(['geneve.vni', 'icmp.type', 'tcp.port', 'ip.src'] as const),
      ...(['weftline.control.kind', 'weftline.segment.count'] as const),
    ],
    [
      ...['-o', `wg.keylog_file:${capture.keys}`, '-o', 'wg.dissect_packet:FALSE'],
      ...['-X', `lua_script:${DISSECTOR}`],
    ],
  )
  const echoes = new Set(
    inside.map((row) => `${Number(row['geneve.vni'])} ${row['icmp.type']} ${last(row['ip.src'])}`),
  )
  for (const { ip4 } of [web, api]) {
    assert(echoes.has(`${vni} 8 ${ip4}`), `a request of ${ip4}`)
    assert(echoes.has(`${vni} 0 ${ip4}`), `a reply of ${ip4}`)
  }
  const segments = inside
    .filter((row) => row['tcp.port'].includes(String(ECHO_PORT)))
    .map((row) => row['weftline.segment.count'])
  assert(segments.includes('1'))
  const kinds = new Set(inside.map((row) => row['weftline.control.kind']))
  for (const [kind, name] of ['hello', 'probe', 'reply'].entries())
    assert(kinds.has(String(kind + 1)), name)
})

/** What alpha sends and gets by the sealed transport while two endpoints talk and its keys are logged. */
async function captureOfTalk(
  lab: Lab,
  folder: PrivateFolder,
): Promise<{ readonly packets: string; readonly keys: string }> {
  const packets = join(folder.path, 'under0.pcap')
  const { sealing } = await lab.status('alpha')
  await using dump = at(lab, 'alpha').start([
    ...['tcpdump', '-i', 'under0', '--immediate-mode', '-U', '-Z', 'root', '-w', packets],
    `udp port ${sealing?.listenPort}`,
  ])
  // It opens the device before the file.
  await eventually(async () => assert.ok(statSync(packets).size > 0))
  await using log = await KeyLog.start(lab, folder)
  await talk(lab)
  const { size } = statSync(packets)
  await eventually(async () => assert.ok(statSync(packets).size >= size + BEHIND_BYTES))
  await dump.stop()
  return { packets, keys: folder.write('keys.log', log.read()) }
}

/** Has connections between alpha and beta begin at either host, and packets in them. */
async function talk(lab: Lab): Promise<void> {
  const listen = `${api.ip4}:${ECHO_PORT}`
  await using _echo = await startTcpEcho(at(lab, api.name), { listen })
  await untilAnswered(lab, web, api)
  const { answered } = await askByTcp(at(lab, web.name), listen, { count: 3 })
  assert.equal(answered, 3)
  await lab.restart('shuttle@beta')
  await untilAnswered(lab, api, web)
}

async function untilAnswered(lab: Lab, source: Known, other: Known): Promise<void> {
  await eventually(async () => {
    const { received } = await ping(at(lab, source.name), other.ip4, {
      count: 1,
      'timeout-ms': 500,
    })
    assert.equal(received, 1)
  })
}

/** Alpha writes its keys to a file until the end. */
class KeyLog implements AsyncDisposable {
  readonly #lab: Lab
  readonly #path: string

  private constructor(lab: Lab, path: string) {
    this.#lab = lab
    this.#path = path
  }

  static async start(lab: Lab, folder: PrivateFolder): Promise<KeyLog> {
    const path = `${lab.plan.folder}/alpha/shuttle/state/keys.log`
    const program = folder.write(
      'node',
      `#!/bin/sh
export WEFT_FORWARDER_SEALED_KEY_LOG='${path}'
exec ${lab.plan.folder}/bin/node "$@"
`,
    )
    chmodSync(program, 0o755)
    const log = new KeyLog(lab, path)
    await lab.restart(FORWARDER, 'SIGTERM', { program })
    await log.#untilInForce()
    return log
  }

  /** Sessions from before have other keys, and another cipher where that is faster. */
  async #untilInForce(): Promise<void> {
    await eventually(async () => {
      assert.equal((await this.#lab.status('alpha')).sealing?.keyLogged, true)
      await ping(at(this.#lab, web.name), api.ip4, { count: 1, 'timeout-ms': 500 })
      for (const [host, other] of [
        ['alpha', 'beta'],
        ['beta', 'alpha'],
      ] as const) {
        const connections = await this.#lab.client.host(host).listOpenConnections()
        const connection = connections.find((candidate) => candidate.host === other)
        assert.equal(connection?.cipher, 'chacha20-poly1305')
      }
    })
    assert.equal(statSync(this.#path).mode & 0o777, 0o600)
  }

  read(): string {
    return readFileSync(this.#path, 'utf8')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lab.restart(FORWARDER, 'SIGTERM')
    await eventually(async () => {
      assert.equal((await this.#lab.status('alpha')).sealing?.keyLogged, false)
    })
    rmSync(this.#path)
  }
}

/** Reads a capture by tshark, with no settings but those that it is given. */
class Shark {
  readonly #argv: readonly string[]

  constructor(settings: PrivateFolder, capture: string) {
    this.#argv = ['env', `WIRESHARK_CONFIG_DIR=${settings.path}`, 'tshark', '-n', '-r', capture]
  }

  text(options: readonly string[]): Promise<string> {
    return mustRun([...this.#argv, ...options])
  }

  /** Fields of every packet; empty where it has none of the name, with commas where it has several. */
  async rows<Field extends string>(
    fields: readonly Field[],
    options: readonly string[] = [],
  ): Promise<readonly Readonly<Record<Field, string>>[]> {
    const wanted = fields.flatMap((field) => ['-e', field])
    const text = await this.text([...options, '-T', 'fields', ...wanted])
    const lines = text.split('\n').filter((line) => line !== '')
    return lines.map((line) => {
      const values = line.split('\t')
      return Object.fromEntries(
        fields.map((field, index) => [field, values[index] ?? '']),
      ) as Record<Field, string>
    })
  }
}

/** The value of the innermost header. */
function last(values: string): string {
  return values.split(',').at(-1) ?? ''
}
