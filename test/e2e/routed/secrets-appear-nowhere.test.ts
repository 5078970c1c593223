import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import {
  appendFileSync,
  chmodSync,
  chownSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { NewPlace } from '../../support/place.ts'
import { BLUE, establish, routedLab } from '../support/blue.ts'
import { at, PREFIX, prefix } from '../support/lab.ts'
import {
  enrolmentOf,
  fingerprintOfLab,
  PrivateFolder,
  tryToJoin,
  weftAt,
} from '../support/members.ts'
import {
  keySecret,
  PLACES,
  searchEverywhere,
  secretFiles,
  secretsOf,
  textSecret,
} from '../support/secrets.ts'
import { makeStranger } from '../support/stranger.ts'
import { attachClient } from '../support/wireguard.ts'

const [web, , api] = BLUE
/** Of the services that can be made to throw: it has a replica beside it. */
const THROWS = 'config-3'
const THROWS_AFTER_MS = 2000
/** Stands beside the metrics of the lab's processes, which tell nothing that somebody else has named. */
const CANARY_METRICS = { host: '127.0.0.1', port: 9199 }
/** Of the user and the host that come and go. */
const NAME = 'visitor'
/** Of a WireGuard client. */
const PRIVATE_KEY = 'private key of a client'
const PRESHARED_KEY = 'preshared key of a client'

test('no private key, seed, token or code comes to light anywhere, and a canary does everywhere', async (t) => {
  const lab = await routedLab()
  await using made = new AsyncDisposableStack()
  using folder = new PrivateFolder()
  const canary = textSecret('canary', `canary-${randomBytes(24).toString('hex')}`)
  const canaryText = canary.forms[0]?.toString() ?? ''
  const texts = await useTokensAndCodes(lab, folder)
  await establish(lab, web, [api])
  const client = await attachClient(lab, made, {
    name: 'blue/phone',
    host: 'alpha',
    addresses: ['10.20.9.4'],
    words: ['--preshared-key'],
  })
  const keys = [
    keySecret(PRIVATE_KEY, client.interface.get('PrivateKey') ?? ''),
    keySecret(PRESHARED_KEY, client.peer.get('PresharedKey') ?? ''),
  ]
  const secrets = [
    ...keys,
    ...secretsOf(lab),
    ...texts.map((text, index) => textSecret(`text ${index}`, text)),
  ]
  assert.ok(secrets.length >= 20, 'the search knows too few secrets')
  await plant(lab, canaryText, made)
  const reports = await makeThrow(lab, canaryText, folder, made)

  const found = await searchEverywhere(lab, [...secrets, canary], {
    crashFolder: reports,
    metricsUrl: `http://${CANARY_METRICS.host}:${CANARY_METRICS.port}/metrics`,
  })

  const kinds = new Set(
    found.filter(({ secret }) => secret === canary.name).map(({ kind }) => kind),
  )
  assert.deepEqual(
    [...kinds].toSorted(),
    [...PLACES].toSorted(),
    'the search does not look everywhere',
  )
  // Both programs need it again after they have started anew, when nobody else can be asked.
  const holders = found.filter(({ secret }) => secret === PRESHARED_KEY)
  assert.deepEqual(holders.map(({ where }) => where.replace(/.*\/alpha\//, '')).toSorted(), [
    'forwarder/host',
    'shuttle/state/ports.binpb',
  ])
  for (const { where } of holders) assert.equal(statSync(where).mode & 0o177, 0, where)
  assert.deepEqual(
    found.filter(({ secret }) => secret !== canary.name && secret !== PRESHARED_KEY),
    [],
  )
  t.diagnostic(`${secrets.length} secrets, ${found.length} canaries`)
})

test('files with secrets can be read by their owners alone', async () => {
  const lab = await routedLab()
  const files = secretFiles(lab.plan.folder)
  assert.ok(files.length >= 20, `${files.length} files`)
  for (const path of files) {
    assert.equal(statSync(path).mode & 0o177, 0, path)
    assert.equal(statSync(dirname(path)).mode & 0o077, 0, dirname(path))
  }
})

/** A token and a code that are used, and a token that is refused: what is told of them goes everywhere. */
async function useTokensAndCodes(lab: Lab, folder: PrivateFolder): Promise<string[]> {
  await using stranger = await makeStranger(lab)
  const { client } = lab
  const enter = async (token: string, name: string): Promise<number> => {
    const identity = join(folder.path, 'identity', name)
    return (await tryToJoin(lab, stranger, { token, name, identity })).code
  }
  const { text: good } = await client.tokens.create({ hostName: NAME })
  const { text: refused } = await client.tokens.create({ hostName: 'nobody' })
  await client.users.create({ name: NAME, grants: [{ role: 'auditor', tenant: undefined }] })
  try {
    assert.equal(await enter(good, NAME), 0)
    assert.notEqual(await enter(refused, 'somebody'), 0)
    const { text: code } = await client.users.createLoginCode({ user: NAME })
    const login = ['login', '--control', enrolmentOf(lab), '--fingerprint', fingerprintOfLab(lab)]
    const argv = [...login, '--code-file', folder.write('code', code)]
    const ended = await weftAt(stranger, argv, folder.path)
    assert.equal(ended.code, 0, ended.stderr)
    return [good, refused, code]
  } finally {
    await client.users.delete(NAME)
    await client.hosts.delete(NAME)
  }
}

/** Puts a text where a secret could be: as the program itself would where it can be made to, else by hand. */
async function plant(lab: Lab, canary: string, made: AsyncDisposableStack): Promise<void> {
  const control = at(lab, 'control')
  const { host, port } = CANARY_METRICS
  const serve = `require('node:http').createServer((_, answer) => answer.end(process.argv[1]))
    .listen(${port}, '${host}', () => console.log('ready'))`
  const argv = ['env', `WEFT_CANARY=${canary}`, process.execPath, '-e', serve, canary]
  const running = made.use(control.start(argv))
  await running.until('ready')
  const line = `${JSON.stringify({ level: 'info', msg: canary })}\n`
  const keeper = lab.processes().find(({ name }) => name === 'keeper')
  assert.ok(keeper !== undefined)
  for (const path of [keeper.logFile, keeper.traceFile]) appendFileSync(path, line)

  const { tenant } = lab.plan
  const ref = { tenant, network: canary, endpoint: 'only' }
  const place = made.use(await NewPlace.make(`${PREFIX}-canary`))
  await lab.client.networks.create({ tenant, network: canary, prefixes: [prefix('10.88.0.0/24')] })
  made.defer(() => lab.client.networks.delete({ tenant, network: canary }).then(() => undefined))
  await lab.client.endpoints.create(ref)
  // The replica that was made to throw may have been the one whom the host was telling that it is free.
  made.defer(() => eventually(() => lab.client.endpoints.delete(ref)).then(() => undefined))
  await lab.client.host('alpha').attach(ref, { kind: 'netns', path: place.path })
  made.defer(() =>
    lab.client
      .host('alpha')
      .detach(ref)
      .then(() => undefined),
  )
}

/**
 * Makes a service that has everything in memory throw where nobody catches it, and write the report of Node about itself.
 * @returns folder of the report
 */
async function makeThrow(
  lab: Lab,
  canary: string,
  folder: PrivateFolder,
  made: AsyncDisposableStack,
): Promise<string> {
  const uid = lab.processes().find(({ name }) => name === THROWS)?.uid ?? 0
  const reports = `${lab.plan.folder}/crash`
  mkdirSync(reports, { mode: 0o700 })
  made.defer(() => rmSync(reports, { recursive: true }))
  chownSync(reports, uid, uid)
  const program = folder.write(
    'throwing',
    `#!/bin/sh
export NODE_OPTIONS='--import=data:text/javascript,${encodeURIComponent(throwing(reports, canary))}'
exec ${lab.plan.folder}/bin/node "$@"
`,
  )
  chmodSync(program, 0o755)
  made.defer(async () => {
    await lab.stop(THROWS, 'SIGKILL')
    await lab.start(THROWS)
  })
  await lab.restart(THROWS, 'SIGTERM', { program })
  await eventually(async () => assert.equal(lab.process(THROWS), undefined))
  assert.equal(readdirSync(reports).length, 1, 'it did not throw')
  return reports
}

/** Once it serves: by then it has read all its keys. */
function throwing(reports: string, canary: string): string {
  return `setTimeout(() => {
    process.report.directory = ${JSON.stringify(reports)}
    process.report.writeReport(new Error(${JSON.stringify(canary)}))
    throw new Error(${JSON.stringify(canary)})
  }, ${THROWS_AFTER_MS})`
}
