// Gathers the facts that `requirements.mjs` judges.
import { execFileSync } from 'node:child_process'
import { accessSync, constants, existsSync, readFileSync, statfsSync } from 'node:fs'
import { homedir, release } from 'node:os'
import { delimiter, join } from 'node:path'
import { PACKAGES } from './requirements.mjs'

/** PATH with the places where rustup and system administration keep their programs, which a bare login may lack. */
export const SEARCH_PATH = [
  ...(process.env.PATH ?? '').split(delimiter),
  join(process.env.CARGO_HOME ?? join(homedir(), '.cargo'), 'bin'),
  '/usr/local/go/bin',
  '/usr/local/sbin',
  '/usr/sbin',
  '/sbin',
].filter((folder, index, all) => folder !== '' && all.indexOf(folder) === index)

/**
 * @param {string} root folder of the clone
 * @returns {import('./requirements.mjs').Facts}
 */
export function gatherFacts(root) {
  const status = readText('/proc/self/status') ?? ''
  return {
    platform: process.platform,
    architecture: process.arch,
    nodeVersion: process.version,
    uid: process.getuid?.() ?? -1,
    capabilities: BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`),
    kernelRelease: release(),
    hasBtf: existsSync('/sys/kernel/btf/vmlinux'),
    hasBpfFs: /\tbpf$/m.test(readText('/proc/filesystems') ?? ''),
    hasTun: existsSync('/dev/net/tun'),
    hasNetworkNamespaces: existsSync('/proc/self/ns/net'),
    freeBytes: freeBytes(root),
    isBuilt: existsSync(join(root, 'libs/shuttle/target/release/weft-shuttle')),
    npmVersion: findCommand('npm') && versionOf('npm', ['--version']),
    rustVersion: findCommand('cargo') && versionOf('cargo', ['--version']),
    hasApt: findCommand('apt-get') !== undefined,
    missing: PACKAGES.map((entry) => entry.provides).filter((provides) => !isThere(provides)),
  }
}

/**
 * @param {string} name
 * @returns {string | undefined} its path
 */
export function findCommand(name) {
  return SEARCH_PATH.map((folder) => join(folder, name)).find(isExecutable)
}

/**
 * The first version number that a program prints of itself.
 * @param {string} command
 * @param {string[]} argv
 */
export function versionOf(command, argv) {
  try {
    const text = execFileSync(command, argv, {
      encoding: 'utf8',
      env: { ...process.env, PATH: SEARCH_PATH.join(delimiter) },
      stdio: ['ignore', 'pipe', 'ignore'],
      timeout: 20_000,
    })
    return /\d+\.\d+\.\d+[^\s,]*/.exec(text)?.[0]
  } catch {
    return undefined
  }
}

function isThere(provides) {
  return provides.startsWith('/') ? existsSync(provides) : findCommand(provides) !== undefined
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

function freeBytes(folder) {
  const { bavail, bsize } = statfsSync(folder)
  return bavail * bsize
}

function readText(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}
