import { createHash } from 'node:crypto'
import {
  chmodSync,
  constants,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ToolMissingError } from '@weft/errors'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
const TOOLS = join(ROOT, '.tools')

/** Bundles: one file for each process that runs on Node. */
const BUNDLES = {
  config: 'services/config/src/main.ts',
  'location-resolver': 'services/location-resolver/src/main.ts',
  'routing-policy': 'services/routing-policy/src/main.ts',
  forwarder: 'services/forwarder/src/main.ts',
  keeper: 'deploy/lab/src/keeper.ts',
  weft: 'libs/cli/src/main.ts',
} as const

const BINARIES = {
  'weft-shuttle': 'libs/shuttle/target/release/weft-shuttle',
  'weft-netns': 'libs/shuttle/target/release/weft-netns',
  'weft-keep': 'libs/shuttle/target/release/weft-keep',
  'nats-server': '.tools/bin/nats-server',
} as const

/** Descriptors of the contracts, which servers hand out by reflection. */
const IMAGE = 'libs/proto/src/gen/image.binpb'

/**
 * Flags of every Node process of ours. A service that is idle stays under 100 MiB: its old generation is bounded, and the
 * young one is kept small, because what it does not use of a large one is still resident. No source maps, which alone take
 * 40 MiB: the bundles keep names and lines.
 */
export const NODE_FLAGS: readonly string[] = ['--max-old-space-size=64', '--max-semi-space-size=2']

/**
 * Puts everything that a lab runs into one folder that any user may read: bundles, Node and the native programs. The clone
 * itself may lie where only root reads. The folder is named by its content, so the second start finds it.
 * @returns path of the folder
 */
export async function stage(): Promise<string> {
  for (const [name, path] of Object.entries(BINARIES)) {
    if (!existsSync(join(ROOT, path))) {
      throw new ToolMissingError({ tool: name, remedy: 'build it: npm run setup' })
    }
  }
  const folder = join(TOOLS, 'stage', await contentKey())
  if (existsSync(folder)) return folder
  mkdirSync(join(TOOLS, 'stage'), { recursive: true })
  const making = mkdtempSync(join(TOOLS, 'stage/.making-'))
  try {
    await bundle(making)
    // Reflection looks for the descriptors beside the bundle.
    copyFileSync(join(ROOT, IMAGE), join(making, 'image.binpb'))
    provide(process.execPath, join(making, 'node'))
    for (const [name, path] of Object.entries(BINARIES))
      provide(join(ROOT, path), join(making, name))
    chmodSync(making, 0o755)
    renameSync(making, folder)
  } catch (error) {
    rmSync(making, { recursive: true, force: true })
    // Another lab that starts at the same time has made it.
    if (!existsSync(folder)) throw error
  }
  removeOlder(folder)
  return folder
}

async function bundle(folder: string): Promise<void> {
  const { build } = await import('esbuild')
  await build({
    entryPoints: Object.entries(BUNDLES).map(([out, path]) => ({ in: join(ROOT, path), out })),
    outdir: folder,
    outExtension: { '.js': '.mjs' },
    absWorkingDir: ROOT,
    bundle: true,
    platform: 'node',
    target: 'node24',
    format: 'esm',
    loader: { '.binpb': 'binary' },
    // The command can start a lab, which bundles; the one in a lab does not.
    external: ['esbuild'],
    legalComments: 'none',
    logLevel: 'error',
    // CommonJS packages inside an ES module still call require for what is built into Node.
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
    },
  })
  for (const entry of readdirSync(folder)) chmodSync(join(folder, entry), 0o644)
}

/** A link where the file system can and anyone may run the file, else a copy. */
function provide(source: string, target: string): void {
  const isOpen = (statSync(source).mode & 0o005) === 0o005
  try {
    if (!isOpen) throw new Error('only its owner may run it')
    linkSync(source, target)
  } catch {
    copyFileSync(source, target, constants.COPYFILE_FICLONE)
    chmodSync(target, 0o755)
  }
}

/** Sources by content, programs by size and time: a program is large, and whatever makes one sets its time. */
async function contentKey(): Promise<string> {
  const hash = createHash('sha256')
  for (const path of [
    process.execPath,
    ...Object.values(BINARIES).map((binary) => join(ROOT, binary)),
  ]) {
    const { size, mtimeMs } = statSync(path)
    hash.update(`${path} ${size} ${mtimeMs}\n`)
  }
  for (const path of sourceFiles()) hash.update(`${path}\n`).update(readFileSync(join(ROOT, path)))
  return hash.digest('hex').slice(0, 20)
}

function sourceFiles(): string[] {
  const packages = ['libs', 'services'].flatMap((group) =>
    readdirSync(join(ROOT, group)).map((name) => join(group, name)),
  )
  const files = [...packages, 'deploy/lab'].flatMap((folder) => {
    const source = join(folder, 'src')
    if (!existsSync(join(ROOT, source))) return []
    return readdirSync(join(ROOT, source), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts') || file.endsWith('.binpb'))
      .map((file) => join(source, file))
  })
  return [...files, 'package-lock.json'].sort()
}

/** Keeps what runs and what was staged last. */
function removeOlder(current: string): void {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
  const folder = join(TOOLS, 'stage')
  for (const name of readdirSync(folder)) {
    const path = join(folder, name)
    const isFresh = Date.now() - statSync(path).mtimeMs < FRESH_MS
    if (path === current || isFresh || mounts.includes(path)) continue
    rmSync(path, { recursive: true, force: true })
  }
}

/** Younger folders may belong to a lab that is starting and has not mounted them yet. */
const FRESH_MS = 10 * 60_000
