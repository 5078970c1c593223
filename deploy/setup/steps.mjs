// What set-up does, step by step. A step whose inputs have not changed since it last succeeded is skipped.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  createWriteStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { delimiter, join } from 'node:path'
import { findCommand, SEARCH_PATH, versionOf } from './probe.mjs'
import { isFitNatsServer, missingNpmPackages } from './requirements.mjs'

/** Built by module name where the machine has none that fits. */
const NATS_SERVER_VERSION = 'v2.15.2'
const OUTPUT_TAIL_LINES = 30

/** A step's program failed; the message holds the end of what it said. */
export class StepError extends Error {
  name = 'StepError'
}

/**
 * Installs and builds everything that is not there yet.
 * @param {object} options
 * @param {string} options.root folder of the clone
 * @param {string[]} options.packages Debian packages to install first
 * @param {import('./progress.mjs').Progress} options.progress
 */
export async function setUp({ root, packages, progress }) {
  const tools = join(root, '.tools')
  mkdirSync(join(tools, 'bin'), { recursive: true })
  mkdirSync(join(tools, 'stamps'), { recursive: true })
  mkdirSync(join(tools, 'log'), { recursive: true })
  const context = { root, tools, progress }

  if (packages.length > 0) await installPackages(context, packages)
  const outcomes = await Promise.allSettled([
    installNpmPackages(context).then(() => generateProtos(context)),
    buildShuttle(context),
    provideNatsServer(context),
  ])
  const failures = outcomes.flatMap((outcome) =>
    outcome.status === 'rejected' ? [outcome.reason] : [],
  )
  if (failures.length > 0)
    throw new AggregateError(failures, failures.map((error) => error.message).join('\n\n'))
}

async function installPackages({ root, tools, progress }, packages) {
  await progress.step(`Debian packages: ${packages.join(' ')}`, async (say) => {
    const options = {
      cwd: root,
      log: join(tools, 'log/apt.log'),
      say,
      env: { DEBIAN_FRONTEND: 'noninteractive' },
    }
    await run('apt-get', ['update'], options)
    await run('apt-get', ['install', '-y', '--no-install-recommends', ...packages], options)
  })
}

async function installNpmPackages({ root, tools, progress }) {
  const lock = readJson(join(root, 'package-lock.json'))
  const installed = readJson(join(root, 'node_modules/.package-lock.json'))
  const machine = { os: process.platform, cpu: process.arch }
  if (missingNpmPackages(lock, installed, machine).length === 0) return
  await progress.step('npm packages, Node 24 among them', (say) =>
    // Versions are those of the lock file. `npm ci` is stricter than that: it refuses a lock file without the optional packages
    // of platforms that a registry does not have. Scripts of packages are not run: nothing here needs one.
    run('npm', ['install', '--no-save', '--ignore-scripts', '--no-audit', '--no-fund'], {
      cwd: root,
      log: join(tools, 'log/npm.log'),
      say,
    }),
  )
}

async function generateProtos(context) {
  const { root, tools, progress } = context
  const inputs = ['proto', 'buf.gen.yaml', 'buf.yaml', 'package-lock.json']
  const outputs = ['libs/proto/src/gen/image.binpb']
  await unlessStamped(context, 'protos', inputs, outputs, () =>
    progress.step('code of the contracts in proto/', (say) =>
      run('npm', ['run', 'proto'], { cwd: root, log: join(tools, 'log/proto.log'), say }),
    ),
  )
}

async function buildShuttle(context) {
  const { root, tools, progress } = context
  const inputs = [
    'proto',
    'libs/shuttle/bpf',
    'libs/shuttle/crates',
    'libs/shuttle/Cargo.toml',
    'libs/shuttle/Cargo.lock',
  ]
  const outputs = ['weft-shuttle', 'weft-netns', 'weft-keep'].map(
    (name) => `libs/shuttle/target/release/${name}`,
  )
  await unlessStamped(context, 'shuttle', inputs, outputs, () =>
    progress.step('shuttle: eBPF programs and Rust', (say) =>
      run('cargo', ['build', '--release', '--locked', '--target-dir', 'target'], {
        cwd: join(root, 'libs/shuttle'),
        log: join(tools, 'log/cargo.log'),
        say,
      }),
    ),
  )
}

async function provideNatsServer({ root, tools, progress }) {
  const own = join(tools, 'bin/nats-server')
  if (existsSync(own) && isFit(own)) return
  const inPath = findCommand('nats-server')
  if (inPath !== undefined && isFit(inPath)) {
    copyFileSync(inPath, own)
    return
  }
  await progress.step('nats-server', async (say) => {
    const log = join(tools, 'log/nats-server.log')
    const problems = []
    for (const provide of [buildNatsServer, unpackNatsServer]) {
      try {
        await provide({ tools, log, say })
        if (isFit(own)) return
        problems.push(`got version ${versionOf(own, ['--version']) ?? 'unknown'}`)
      } catch (error) {
        problems.push(error.message)
      }
    }
    throw new StepError(
      `no nats-server >= 2.12.7 (2.12) or >= 2.14.0 could be had; put one into PATH or install Go >= 1.25\n${problems.join('\n')}`,
    )
  })

  function isFit(path) {
    return isFitNatsServer(versionOf(path, ['--version']) ?? '')
  }

  async function buildNatsServer(options) {
    if (findCommand('go') === undefined) throw new StepError('Go is not installed')
    await run('go', ['install', `github.com/nats-io/nats-server/v2@${NATS_SERVER_VERSION}`], {
      cwd: root,
      env: { GOBIN: join(tools, 'bin'), GOFLAGS: '-mod=mod', CGO_ENABLED: '0' },
      ...options,
    })
  }

  /** Debian sid's package, unpacked beside the system: its only dependency is the C library. */
  async function unpackNatsServer(options) {
    const source = debianSource()
    if (source === undefined) throw new StepError('this machine has no Debian package source')
    const folder = join(tools, 'sid')
    rmSync(folder, { recursive: true, force: true })
    for (const name of ['lists/partial', 'cache/archives/partial'])
      mkdirSync(join(folder, name), { recursive: true })
    writeFileSync(
      join(folder, 'sources.list'),
      `deb [signed-by=${source.keyring}] ${source.mirror} sid main\n`,
    )
    const settings = [
      `Dir::Etc::sourcelist=${folder}/sources.list`,
      'Dir::Etc::sourceparts=/dev/null',
      `Dir::State::lists=${folder}/lists`,
      `Dir::Cache=${folder}/cache`,
      'APT::Sandbox::User=root',
    ].flatMap((setting) => ['-o', setting])
    await run('apt-get', [...settings, 'update'], { cwd: folder, ...options })
    await run('apt-get', [...settings, 'download', 'nats-server'], { cwd: folder, ...options })
    const deb = readdirSync(folder).find((name) => name.endsWith('.deb'))
    await run('dpkg', ['-x', join(folder, deb ?? 'nats-server.deb'), join(folder, 'root')], {
      cwd: folder,
      ...options,
    })
    // Debian's package has it in sbin, as a daemon; in bin it would do as well.
    const found = ['usr/sbin', 'usr/bin']
      .map((place) => join(folder, 'root', place, 'nats-server'))
      .find((path) => existsSync(path))
    if (found === undefined) throw new StepError(`${deb} has no program nats-server`)
    copyFileSync(found, own)
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Mirror and keyring of the machine's own Debian sources. */
function debianSource() {
  const parts = '/etc/apt/sources.list.d'
  const files = [
    '/etc/apt/sources.list',
    ...(existsSync(parts) ? readdirSync(parts).map((name) => join(parts, name)) : []),
  ]
  const text = files
    .filter((file) => existsSync(file))
    .map((file) => readFileSync(file, 'utf8'))
    .join('\n')
  const mirror = /^\s*(?:URIs:|deb)\s.*?(https?:\/\/[^\s]+\/debian)\/?(?:\s|$)/m.exec(text)?.[1]
  const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg'
  return mirror !== undefined && existsSync(keyring) ? { mirror, keyring } : undefined
}

/** Runs `work` unless the inputs are those of its last success and its outputs are there. */
async function unlessStamped({ root, tools }, name, inputs, outputs, work) {
  const file = join(tools, 'stamps', name)
  const stamp = hashOf(root, inputs)
  const isCurrent = existsSync(file) && readFileSync(file, 'utf8') === stamp
  if (isCurrent && outputs.every((output) => existsSync(join(root, output)))) return
  await work()
  writeFileSync(file, stamp)
}

function hashOf(root, inputs) {
  const hash = createHash('sha256')
  const add = (path) => {
    const full = join(root, path)
    if (!existsSync(full)) return
    const entries = readdirSyncOrUndefined(full)
    if (entries === undefined) hash.update(`${path}\0`).update(readFileSync(full)).update('\0')
    else for (const entry of entries.sort()) add(join(path, entry))
  }
  for (const input of inputs) add(input)
  return hash.digest('hex')
}

function readdirSyncOrUndefined(path) {
  try {
    return readdirSync(path)
  } catch (error) {
    if (error.code === 'ENOTDIR') return undefined
    throw error
  }
}

/**
 * Runs a program with its output in a log file.
 * @param {string} command
 * @param {string[]} argv
 * @param {{ cwd: string, log: string, say: (detail: string) => void, env?: Record<string, string> }} options
 * @returns {Promise<void>}
 */
function run(command, argv, { cwd, log, say, env = {} }) {
  return new Promise((resolve, reject) => {
    const output = createWriteStream(log, { flags: 'a' })
    let tail = ''
    const child = spawn(command, argv, {
      cwd,
      env: { ...process.env, PATH: SEARCH_PATH.join(delimiter), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const take = (chunk) => {
      output.write(chunk)
      tail = (tail + chunk).slice(-8192)
      say(
        tail
          .trimEnd()
          .split(/[\r\n]/)
          .at(-1)
          ?.trim() ?? '',
      )
    }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    child.on('error', (error) => reject(new StepError(`${command}: ${error.message}`)))
    child.on('close', (code, signal) => {
      output.end()
      if (code === 0) resolve()
      else {
        const words = `${command} ${argv.slice(0, 2).join(' ')}`
        const end = tail.trimEnd().split('\n').slice(-OUTPUT_TAIL_LINES).join('\n')
        reject(new StepError(`${words} ended with ${signal ?? code} (all of it: ${log})\n${end}`))
      }
    })
  })
}

function readJson(path) {
  return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : undefined
}
