/** Programs of others that a bench needs: built or unpacked into the clone on first use; nothing is installed. */
import { existsSync } from 'node:fs'
import { mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { ROOT } from '../check/repository.ts'
import { mustRun, run } from '../support/place.ts'

/** Deleted, it is made anew. */
export const PROGRAMS: string = join(ROOT, '.tools/peers')
/** Names together what one download gets. */
const PACKAGES = ['tinc', 'n2n', 'openvpn'] as const
const FETCH_TIMEOUT_MS = 600_000

/** Why a peer cannot be measured, with what helps. */
export class MissingPeerError extends Error {
  override readonly name = 'MissingPeerError'

  constructor(problem: string, remedy: string) {
    super(`${problem}\n  try: ${remedy}`)
  }
}

export interface Program {
  readonly version: string
  /** Words that start it where `PROGRAMS` is at `root`. */
  readonly argv: (root: string) => readonly string[]
}

export interface GoModule {
  readonly path: string
  /** In order of preference: the first that can be built is taken. */
  readonly versions: readonly string[]
  /** Folders of its commands, `''` for that of the module. */
  readonly commands: readonly string[]
}

/** Its only command is in the folder of the module. */
export const WIREGUARD_GO: GoModule = {
  path: 'golang.zx2c4.com/wireguard',
  versions: ['v0.0.0-20260522210424-ecfc5a8d5446'],
  commands: [''],
}

/**
 * The commands of a module, in its order.
 * @throws MissingPeerError if no version can be built
 */
export async function goPrograms({ path, versions, commands }: GoModule): Promise<Program[]> {
  const problems: string[] = []
  for (const version of versions) {
    const folder = `${path.replaceAll('/', '_')}@${version}`
    const problem = await goInstall(
      commands.map((command) => `${join(path, command)}@${version}`),
      join(PROGRAMS, folder),
    )
    if (problem === undefined) {
      return commands.map((command) => {
        const name = join(path, command).split('/').at(-1) ?? ''
        return { version, argv: (root) => [join(root, folder, name)] }
      })
    }
    problems.push(`${version}: ${problem}`)
  }
  throw new MissingPeerError(
    `${path} cannot be built: ${problems.join('; ')}`,
    'install Go >= 1.25, with a proxy of modules that it reaches',
  )
}

/** @returns why it cannot be done */
async function goInstall(packages: readonly string[], folder: string): Promise<string | undefined> {
  if (existsSync(folder)) return undefined
  const made = `${folder}.new`
  const env = [`GOBIN=${made}`, 'GOFLAGS=-mod=mod', 'CGO_ENABLED=0']
  const { code, stderr } = await run(
    ['env', ...env, 'go', 'install', ...packages],
    FETCH_TIMEOUT_MS,
  )
  if (code === 0) {
    await rename(made, folder)
    return undefined
  }
  await rm(made, { recursive: true, force: true })
  return stderr.trim().split('\n').at(-1)
}

/**
 * A program of Debian's packages; what the machine has itself is not unpacked.
 * @param versionOption what makes it tell its version, as the first number with a dot
 * @throws MissingPeerError if it is not to be had
 */
export async function debianProgram(name: string, versionOption: string): Promise<Program> {
  await unpackPackages()
  const argv = (root: string) => [...withPackages(root), name]
  const { stdout, stderr } = await run([...argv(PROGRAMS), versionOption])
  const version = /\d+(?:\.\d+)+/.exec(stdout + stderr)?.[0]
  if (version === undefined) {
    throw new MissingPeerError(`${name} does not run: ${stderr.trim()}`, `rm -r ${PROGRAMS}`)
  }
  return { version, argv }
}

const PACKAGES_FOLDER = 'debian'

async function unpackPackages(): Promise<void> {
  const folder = join(PROGRAMS, PACKAGES_FOLDER)
  if (existsSync(folder)) return
  const made = `${folder}.new`
  let problem = await download(made)
  if (problem !== undefined) {
    // The machine's lists of packages may be old, or not be there at all.
    await aptGet(['update'])
    problem = await download(made)
  }
  if (problem !== undefined) {
    throw new MissingPeerError(problem, `apt-get install ${PACKAGES.join(' ')}`)
  }
  const archives = join(made, 'archives')
  for (const name of await readdir(archives)) {
    if (name.endsWith('.deb')) await mustRun(['dpkg', '-x', join(archives, name), made])
  }
  await rm(archives, { recursive: true })
  await rename(made, folder)
}

/** @returns why it cannot be done */
async function download(folder: string): Promise<string | undefined> {
  await rm(folder, { recursive: true, force: true })
  await mkdir(join(folder, 'archives/partial'), { recursive: true })
  const options = ['-y', '--download-only', '--no-install-recommends']
  return await aptGet(['-o', `Dir::Cache=${folder}`, 'install', ...options, ...PACKAGES])
}

/** @returns why it has failed */
async function aptGet(words: readonly string[]): Promise<string | undefined> {
  const { code, stderr } = await run(
    ['env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-o', 'APT::Sandbox::User=root', ...words],
    FETCH_TIMEOUT_MS,
  )
  if (code === 0) return undefined
  return `apt-get ended with ${code}: ${stderr.trim().split('\n').at(-1)}`
}

/** Lets a program be one of the unpacked packages, or else the machine's. */
function withPackages(root: string): string[] {
  const folder = join(root, PACKAGES_FOLDER)
  const triplet = `${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`
  const libraries = ['usr/lib', 'lib'].map((name) => join(folder, name, triplet))
  const programs = ['usr/sbin', 'usr/bin'].map((name) => join(folder, name))
  const machines = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  return ['env', `LD_LIBRARY_PATH=${libraries.join(':')}`, `PATH=${programs.join(':')}:${machines}`]
}
