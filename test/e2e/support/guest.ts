import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import {
  chmod,
  copyFile,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { ROOT } from '../../check/repository.ts'
import { mustRun, type Place, run } from '../../support/place.ts'

const INIT = join(dirname(fileURLToPath(import.meta.url)), 'guest-init.sh')
const PARTS = join(ROOT, '.tools/guest')
const KERNEL_PACKAGE = 'linux-image-cloud-amd64'
/** Which of its kernel's modules a guest has, besides those that they need. */
const MODULES = ['virtio_pci', 'virtio_net', 'wireguard'] as const
/** Programs of packages beside busybox, and the libraries that they need. */
const FILES = ['usr/bin/wg'] as const
const LIBRARIES = ['lib/x86_64-linux-gnu/libc.so.6', 'lib64/ld-linux-x86-64.so.2'] as const
const FILE_PACKAGES = ['wireguard-tools', 'libc6'] as const
const MEMORY_MIB = 256
const FETCH_TIMEOUT_MS = 300_000
const BOOT_TIMEOUT_MS = 60_000
const COMMAND_TIMEOUT_MS = 60_000

/** What a guest is made of. */
export interface GuestParts {
  /** Root of unpacked packages whose programs run here: QEMU and cpio, as far as the machine lacks them. */
  readonly outside: string
  /** Folder of `vmlinuz`, `busybox` and `files`, which the guest gets. */
  readonly inside: string
}

export interface GuestOptions {
  /** TAP device at the place, made with `vnet_hdr`. */
  readonly device: string
  readonly mac: string
  /** With the length of the network's prefix, as the next. */
  readonly ip4: string
  readonly ip6: string
  readonly mtu: number
}

/**
 * Downloads Debian's QEMU, kernel and busybox into the clone, where they are kept; nothing is installed.
 * @returns why there can be no guest, where these packages are not to be had
 */
export async function provideGuestParts(): Promise<GuestParts | { readonly missing: string }> {
  if (process.arch !== 'x64') return { missing: `the guest is one for x86-64, not ${process.arch}` }
  if (!existsSync(join(PARTS, 'inside/files', FILES[0]))) {
    await rm(PARTS, { recursive: true, force: true })
    const folder = `${PARTS}.new`
    let missing = await download(folder)
    if (missing !== undefined) {
      // The machine's lists of packages may be old, or not be there at all.
      await aptGet(folder, ['update'])
      missing = await download(folder)
    }
    if (missing !== undefined) return { missing: `no packages for a guest: ${missing}` }
    await unpack(folder)
    await rename(folder, PARTS)
  }
  return { outside: join(PARTS, 'outside'), inside: join(PARTS, 'inside') }
}

/** A virtual machine whose processor QEMU emulates, with a kernel and a virtio network device of its own. */
export class Guest implements AsyncDisposable {
  readonly #qemu: ChildProcess
  readonly #console: AsyncIterator<string>
  readonly #ended: Promise<void>
  #stderr = ''

  private constructor(argv: readonly string[]) {
    const [command = '', ...words] = argv
    this.#qemu = spawn(command, words)
    const { stdin, stdout, stderr } = this.#qemu
    if (stdin === null || stdout === null || stderr === null) throw new Error('QEMU without pipes')
    this.#console = createInterface({ input: stdout })[Symbol.asyncIterator]()
    // What a guest that has ended is told is lost; the console's end says so.
    stdin.on('error', () => {})
    stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text
    })
    this.#ended = new Promise((resolve) => {
      this.#qemu.on('error', () => resolve())
      this.#qemu.on('close', () => resolve())
    })
  }

  /** Boots a guest on a TAP device, and returns when its addresses are there and it serves. */
  static async start(place: Place, parts: GuestParts, options: GuestOptions): Promise<Guest> {
    const { device, mac, ip4, ip6, mtu } = options
    await using made = new AsyncDisposableStack()
    const folder = await mkdtemp(join(tmpdir(), 'weft-test-'))
    made.defer(() => rm(folder, { recursive: true }))
    const image = await buildImage(folder, parts)
    const guest = made.use(
      new Guest(
        place.inside([
          ...withParts(parts.outside),
          // Not `microvm`: emulated on a busy machine, its kernel often waits for its first timer interrupt for ever.
          ...['qemu-system-x86_64', '-M', 'pc', '-accel', 'tcg', '-m', String(MEMORY_MIB)],
          ...['-nodefaults', '-no-reboot', '-display', 'none', '-serial', 'stdio'],
          ...['-kernel', join(parts.inside, 'vmlinuz'), '-initrd', image, '-append'],
          `console=ttyS0 quiet panic=-1 ADDRESS4=${ip4} ADDRESS6=${ip6} MTU=${mtu}`,
          ...['-netdev', `tap,id=port,ifname=${device},script=no,downscript=no`],
          ...['-device', `virtio-net-pci,netdev=port,mac=${mac},romfile=`],
        ]),
      ),
    )
    await guest.#until(/^ready$/, BOOT_TIMEOUT_MS)
    made.move()
    await rm(folder, { recursive: true })
    return guest
  }

  /** Runs a line of shell that has to succeed in the guest, and returns what it wrote. One at a time. */
  async mustRun(line: string): Promise<string> {
    this.#qemu.stdin?.write(`${line}\n`)
    const { lines, match } = await this.#until(/^ended (\d+)$/, COMMAND_TIMEOUT_MS)
    const output = lines.join('\n').trimEnd()
    if (match[1] !== '0') throw new Error(`${line} ended with ${match[1]} in the guest: ${output}`)
    return output
  }

  async #until(end: RegExp, timeoutMs: number): Promise<{ lines: string[]; match: string[] }> {
    const killer = setTimeout(() => this.#qemu.kill('SIGKILL'), timeoutMs)
    const lines: string[] = []
    try {
      for (;;) {
        const next = await this.#console.next()
        if (next.done === true) break
        const match = end.exec(next.value)
        if (match !== null) return { lines, match }
        lines.push(next.value)
      }
    } finally {
      clearTimeout(killer)
    }
    throw new Error(`the guest did not say ${end}: ${lines.join('\n')}${this.#stderr}`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#qemu.kill('SIGKILL')
    await this.#ended
  }
}

/** @returns why it cannot be done */
async function download(folder: string): Promise<string | undefined> {
  await rm(folder, { recursive: true, force: true })
  await mkdir(join(folder, 'outside/archives/partial'), { recursive: true })
  await mkdir(join(folder, 'inside'))
  const { stdout } = await run(['env', 'apt-cache', 'depends', KERNEL_PACKAGE])
  const kernel = /Depends: (linux-image-\S+)/.exec(stdout)?.[1]
  if (kernel === undefined) return `apt has no package ${KERNEL_PACKAGE}`
  const cache = `Dir::Cache=${join(folder, 'outside')}`
  const install = ['install', '-y', '--download-only', '--no-install-recommends']
  return (
    (await aptGet(folder, ['-o', cache, ...install, 'qemu-system-x86', 'cpio'])) ??
    (await aptGet(folder, ['download', kernel, 'busybox-static', ...FILE_PACKAGES]))
  )
}

/** @returns why it has failed */
async function aptGet(folder: string, words: readonly string[]): Promise<string | undefined> {
  const { code, stderr } = await run(
    [
      ...['env', `--chdir=${join(folder, 'inside')}`, 'DEBIAN_FRONTEND=noninteractive'],
      ...['apt-get', '-o', 'APT::Sandbox::User=root', ...words],
    ],
    FETCH_TIMEOUT_MS,
  )
  if (code === 0) return undefined
  return `apt-get ended with ${code}: ${stderr.trim().split('\n').at(-1)}`
}

async function unpack(folder: string): Promise<void> {
  const [outside, inside] = [join(folder, 'outside'), join(folder, 'inside')]
  const root = join(folder, 'root')
  await unpackAll(join(outside, 'archives'), outside)
  await unpackAll(inside, root)
  await rm(join(outside, 'archives'), { recursive: true })
  const release = (await readdir(join(root, 'lib/modules')))[0] ?? ''
  await copyFile(join(root, 'boot', `vmlinuz-${release}`), join(inside, 'vmlinuz'))
  await copyFile(join(root, 'bin/busybox'), join(inside, 'busybox'))
  const files = join(inside, 'files')
  for (const name of ['modules/00', ...FILES, ...LIBRARIES]) {
    await mkdir(dirname(join(files, name)), { recursive: true })
  }
  const modules = await inOrder(join(root, 'lib/modules', release, 'kernel'), MODULES)
  for (const [index, path] of modules.entries()) {
    const name = `${String(index).padStart(2, '0')}-${basename(path)}`
    await copyFile(path, join(files, 'modules', name))
  }
  for (const name of FILES) await copyFile(join(root, name), join(files, name))
  for (const name of LIBRARIES) {
    const folders = ['usr/lib', 'lib'].map((each) => join(root, each, 'x86_64-linux-gnu'))
    const source = folders.map((each) => join(each, basename(name))).find(existsSync)
    if (source === undefined) throw new Error(`no package has ${name}`)
    await copyFile(source, join(files, name))
  }
  await rm(root, { recursive: true })
}

/** Paths of modules and of what they need, each after what it needs: what that is stands in the module itself. */
async function inOrder(folder: string, names: readonly string[]): Promise<string[]> {
  const found = new Map<string, string>()
  for (const path of await readdir(folder, { recursive: true })) {
    if (path.endsWith('.ko')) found.set(moduleName(basename(path, '.ko')), join(folder, path))
  }
  const ordered = new Set<string>()
  const add = async (name: string): Promise<void> => {
    const path = found.get(moduleName(name))
    // It is a part of the kernel.
    if (path === undefined || ordered.has(path)) return
    const content = (await readFile(path)).toString('latin1')
    const needed = /\0depends=([^\0]*)\0/.exec(content)?.[1] ?? ''
    for (const other of needed.split(',')) await add(other)
    ordered.add(path)
  }
  for (const name of names) {
    if (!found.has(moduleName(name))) throw new Error(`the kernel has no module ${name}`)
    await add(name)
  }
  return [...ordered]
}

/** Modules need each other under names with either. */
function moduleName(name: string): string {
  return name.replaceAll('-', '_')
}

/** Unpacks the packages in a folder, and removes them. */
async function unpackAll(folder: string, root: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!name.endsWith('.deb')) continue
    await mustRun(['dpkg', '-x', join(folder, name), root])
    await rm(join(folder, name))
  }
}

/** Makes the archive of files from which the guest runs. */
async function buildImage(folder: string, { outside, inside }: GuestParts): Promise<string> {
  const root = join(folder, 'root')
  await cp(join(inside, 'files'), root, { recursive: true })
  await mkdir(join(root, 'bin'))
  await copyFile(INIT, join(root, 'init'))
  await chmod(join(root, 'init'), 0o755)
  await copyFile(join(inside, 'busybox'), join(root, 'bin/busybox'))
  const image = join(folder, 'initrd')
  const script = 'cd "$0" && find . | cpio --quiet --create --format=newc --file="$1"'
  await mustRun([...withParts(outside), 'sh', '-c', script, root, image])
  return image
}

/** Lets a program be one of the unpacked packages, or else the machine's. */
function withParts(outside: string): string[] {
  const libraries = ['usr/lib', 'lib'].map((name) => join(outside, name, 'x86_64-linux-gnu'))
  const programs = ['usr/bin', 'bin'].map((name) => join(outside, name))
  return [
    'env',
    `LD_LIBRARY_PATH=${libraries.join(':')}`,
    `PATH=${[...programs, process.env['PATH']].join(':')}`,
  ]
}
