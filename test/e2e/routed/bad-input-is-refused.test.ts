import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'node:test'
import { WeftError } from '@weft/errors'
import type { Lab } from '@weft/lab'
import { parseIpAddress } from '@weft/net'
import { NewPlace } from '../../support/place.ts'
import { routedLab } from '../support/blue.ts'
import { weft } from '../support/cli.ts'
import { PREFIX } from '../support/lab.ts'

const LONG_NAME = 'x'.repeat(64)

/** What is typed, the code of the error that comes back, and the exit code. */
const COMMANDS: readonly (readonly [what: string, argv: string, code: string, exit: number])[] = [
  [
    'a prefix with bits beyond its length',
    'network create bad --prefix 10.1.2.3/16',
    'invalid-prefix',
    2,
  ],
  ['a prefix that is none', 'network create bad --prefix 10.1.2/33', 'invalid-prefix', 2],
  [
    'prefixes that overlap',
    'network create bad --prefix 10.1.0.0/16 --prefix 10.1.2.0/24',
    'prefix-overlap',
    2,
  ],
  ['a name with bad characters', 'network create Bad_Name --prefix 10.1.0.0/16', 'invalid-name', 2],
  [
    'a name that is too long',
    `network create ${LONG_NAME} --prefix 10.1.0.0/16`,
    'invalid-name',
    2,
  ],
  [
    'an MTU that no IPv6 fits into',
    'network create bad --prefix fd01::/64 --mtu 700',
    'invalid-mtu',
    2,
  ],
  ['a network that is there', 'network create blue --prefix 10.1.0.0/16', 'network-exists', 4],
  [
    'an address outside the prefix',
    'endpoint create bad --network blue --ip 10.99.0.1',
    'address-outside-prefix',
    2,
  ],
  [
    'an address that is taken',
    'endpoint create bad --network blue --ip 10.20.0.11',
    'address-taken',
    4,
  ],
  [
    'the reserved address',
    'endpoint create bad --network blue --ip 10.20.0.1',
    'address-reserved',
    2,
  ],
  [
    'an address that is none',
    'endpoint create bad --network blue --ip 10.20.0.256',
    'invalid-address',
    2,
  ],
  [
    'a MAC address that is none',
    'endpoint create bad --network blue --mac 02:00:00',
    'invalid-mac',
    2,
  ],
  ['an unknown network', 'endpoint create bad --network nowhere', 'network-not-found', 3],
  ['an unknown tenant', 'network show nobody/blue', 'tenant-not-found', 3],
  ['an unknown endpoint', 'endpoint show blue/nobody', 'endpoint-not-found', 3],
  ['an unknown host', 'host show nowhere', 'host-not-found', 3],
  ['a host API that nobody knows', 'port ls --host nowhere', 'host-not-found', 3],
  ['a network with endpoints', 'network rm blue', 'network-in-use', 4],
  ['an endpoint that is attached', 'endpoint rm blue/web', 'endpoint-in-use', 4],
  [
    'a namespace that is missing',
    'endpoint attach blue/bad --host alpha --netns /run/netns/missing',
    'netns-missing',
    3,
  ],
  [
    'a file that is no namespace',
    'endpoint attach blue/bad --host alpha --netns /etc/hostname',
    'netns-missing',
    3,
  ],
  [
    'a TAP device that is missing',
    'endpoint attach blue/bad --host alpha --tap missing0',
    'device-missing',
    3,
  ],
  ['an unknown option', 'network create bad --colour blue', '', 2],
]

test('every mistake has an error of its own, with the way out, and changes nothing', async (t) => {
  const lab = await routedLab()
  const before = await stateOf(lab)
  for (const [what, line, code, exit] of COMMANDS) {
    await t.test(what, async () => {
      const ended = await weft(lab, [...line.split(' '), '-o', 'json'])
      assert.equal(ended.code, exit, ended.stderr)
      assert.equal(ended.stdout, '')
      if (code === '') return
      const { error } = JSON.parse(ended.stderr) as {
        error: { code: string; message: string; remedy: string }
      }
      assert.equal(error.code, code, ended.stderr)
      assert.notEqual(error.message, '')
      assert.notEqual(error.remedy, '', `${code} tells no way out`)
    })
  }
  assert.deepEqual(await stateOf(lab), before)
})

test('a broken file is refused with line and column, and nothing of it is done', async () => {
  const lab = await routedLab()
  const before = await stateOf(lab)
  const folder = mkdtempSync(join(tmpdir(), 'weft-test-'))
  try {
    const good = 'kind: network\nname: fine\nprefixes: [10.1.0.0/16]\n'
    for (const [name, text] of [
      ['broken.yaml', `${good}---\nkind: [network\n`],
      ['broken.json', '{"kind": "network", "name": }'],
      ['wrong.yaml', `${good}---\nkind: network\nname: fine-too\nprefixes: 7\n`],
    ] as const) {
      const file = join(folder, name)
      writeFileSync(file, text)
      const { code, stderr } = await weft(lab, ['apply', '-f', file])
      assert.equal(code, 2, stderr)
      assert.match(stderr, /error: [^]*\d+:\d+|line \d+/, `${name}: ${stderr}`)
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
  assert.deepEqual(await stateOf(lab), before)
})

test('a full network says so, and detaching twice is harmless', async () => {
  const lab = await routedLab()
  const { tenant } = lab.plan
  const network = 'tiny'
  assert.equal(
    (await weft(lab, ['network', 'create', network, '--prefix', '10.77.0.0/30'])).code,
    0,
  )
  const ref = { tenant, network, endpoint: 'only' }
  await using place = await NewPlace.make(`${PREFIX}-tiny`)
  try {
    // Of four addresses one is the network's, one is reserved, one is for broadcast.
    await lab.client.endpoints.create(ref)
    await rejectsWith('network-full', lab.client.endpoints.create({ ...ref, endpoint: 'second' }))
    const alpha = lab.client.host('alpha')
    assert.equal((await alpha.detach(ref)).detached, false, 'it was not attached yet')
    await alpha.attach(ref, { kind: 'netns', path: place.path })
    assert.equal((await alpha.detach(ref)).detached, true)
    assert.equal((await alpha.detach(ref)).detached, false)
  } finally {
    await lab.client.endpoints.delete(ref)
    await lab.client.networks.delete({ tenant, network })
  }
})

test('the same mistakes come by gRPC with the same codes', async () => {
  const lab = await routedLab()
  const { tenant } = lab.plan
  const before = await stateOf(lab)
  const { endpoints, networks } = lab.client
  const outside = parseIpAddress('10.99.0.1')
  assert.ok(outside !== undefined)
  const ref = { tenant, network: 'blue', endpoint: 'bad' }
  await using empty = await NewPlace.make(`${PREFIX}-empty`)
  await rejectsWith('address-outside-prefix', endpoints.create({ ...ref, addresses: [outside] }))
  await rejectsWith('network-not-found', endpoints.create({ ...ref, network: 'nowhere' }))
  await rejectsWith('invalid-name', endpoints.create({ ...ref, endpoint: LONG_NAME }))
  await rejectsWith('network-in-use', networks.delete({ tenant, network: 'blue' }))
  await rejectsWith(
    'endpoint-not-found',
    lab.client.host('alpha').attach(ref, { kind: 'tap', device: 'any0' }),
  )
  await rejectsWith(
    'endpoint-attached-elsewhere',
    lab.client
      .host('beta')
      .attach({ ...ref, endpoint: 'web' }, { kind: 'netns', path: empty.path }),
  )
  await rejectsWith(
    'device-already-attached',
    lab.client
      .host('alpha')
      .attach({ ...ref, endpoint: 'web' }, { kind: 'netns', path: lab.netns('blue/db') }),
  )
  await rejectsWith(
    'message-too-large',
    lab.client.networks.create({
      tenant,
      network: 'bad',
      prefixes: [],
      labels: { big: 'x'.repeat(5 << 20) },
    }),
  )
  assert.deepEqual(await stateOf(lab), before)
})

async function rejectsWith(code: string, call: Promise<unknown>): Promise<void> {
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof WeftError, String(error))
    assert.equal(error.code, code, error.message)
    return true
  })
}

/** The VN database's objects by name, and the ports of all hosts. */
async function stateOf(lab: Lab): Promise<unknown> {
  const names = async (list: AsyncIterable<{ readonly name: string }>): Promise<string[]> =>
    (await Array.fromAsync(list)).map(({ name }) => name).toSorted()
  const ports = await Promise.all(
    lab.weftHosts.map(async ({ name }) => {
      const all = await lab.client.host(name).listPorts()
      return all
        .map(({ network, endpoint, hostDevice }) => `${network}/${endpoint} ${hostDevice}`)
        .toSorted()
    }),
  )
  const { client } = lab
  return {
    networks: await names(client.networks.list()),
    endpoints: await names(client.endpoints.list()),
    hosts: await names(client.hosts.list()),
    ports,
  }
}
