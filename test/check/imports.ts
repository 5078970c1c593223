import { readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join } from 'node:path'
import { ROOT, trackedFiles } from './repository.ts'

/** What a package declares that it may import. */
export interface Manifest {
  readonly name: string
  readonly dependencies: ReadonlySet<string>
  /** For tests only; those of the root are for all packages. */
  readonly devDependencies: ReadonlySet<string>
}

/** An import as it stands in a file. `path` is from the root. */
export interface Import {
  readonly path: string
  readonly specifier: string
}

const SPECIFIER =
  /^\s*(?:import|export)\s(?:[^'"`;]*?\sfrom\s+)?['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]/gm

/** Every module specifier that a source imports or re-exports, types included. */
export function importsOf(source: string): string[] {
  return [...source.matchAll(SPECIFIER)].map((match) => match[1] ?? match[2] ?? '')
}

/** `@weft/proto/weftline/x.ts` is of package `@weft/proto`. */
export function packageOf(specifier: string): string {
  const [scope = '', name = ''] = specifier.split('/')
  return scope.startsWith('@') ? `${scope}/${name}` : scope
}

/** Domain code decides and does nothing else: beside its own files it imports these, and the contracts, which are data. */
const DOMAIN_MAY_IMPORT = ['@weft/net', '@weft/errors', '@weft/proto']
/** Names of messages on the bus and of their subjects are built in one place. */
const OWNERS: readonly {
  readonly packages: RegExp
  readonly owner: string
  readonly why: string
}[] = [
  { packages: /^@nats-io\//, owner: 'libs/bus/', why: 'only libs/bus talks to NATS' },
  {
    packages: /^@grpc\/grpc-js$/,
    owner: 'libs/rpc/',
    why: 'only libs/rpc talks to grpc-js: credentials and authorisation live there',
  },
  {
    packages: /^@weft\/shuttle$/,
    owner: 'services/forwarder/',
    why: 'only the forwarder drives the shuttle',
  },
]

/** Why an import is not allowed; undefined where it is. */
export function judgeImport(
  { path, specifier }: Import,
  manifest: Manifest,
  services: ReadonlySet<string>,
): string | undefined {
  const isTest = path.endsWith('.test.ts') || path.includes('/test/') || path.startsWith('test/')
  if (specifier.startsWith('.')) {
    const target = join(dirname(path), specifier)
    const folder = islandOf(path)
    if (!target.startsWith(folder)) return `leaves its package: ${target}`
    if (isDomain(path) && !isTest && !isDomain(target))
      return 'domain code imports only domain code'
    return undefined
  }
  const builtin = specifier.startsWith('node:') || builtinModules.includes(specifier)
  if (isDomain(path) && !isTest && !DOMAIN_MAY_IMPORT.includes(packageOf(specifier))) {
    return `domain code imports only ${DOMAIN_MAY_IMPORT.join(', ')}`
  }
  if (builtin) {
    if (!specifier.startsWith('node:')) return `write node:${specifier}`
    return path.startsWith('libs/net/src/') && !isTest ? 'libs/net imports nothing' : undefined
  }
  const name = packageOf(specifier)
  if (name === manifest.name) return undefined
  if (services.has(name)) return 'a service is an island: nothing imports it'
  const ownership = OWNERS.find(({ packages }) => packages.test(name))
  if (ownership !== undefined && !path.startsWith(ownership.owner) && !isGenerated(path)) {
    return ownership.why
  }
  if (manifest.dependencies.has(name)) return undefined
  if (manifest.devDependencies.has(name)) {
    return isTest ? undefined : `${name} is declared for tests only`
  }
  return `${name} is not declared in the package.json of ${manifest.name}`
}

/** Holds imports as text. */
const SAMPLES = 'test/check/imports.test.ts'

/** Imports that break a rule, as `path: 'specifier': reason`. */
export function findForbiddenImports(): string[] {
  const manifests = readManifests()
  const services = new Set(
    manifests.filter(({ folder }) => folder.startsWith('services/')).map(({ name }) => name),
  )
  return trackedFiles(['.ts']).flatMap((path) => {
    if (path === SAMPLES) return []
    const manifest = manifests.find(({ folder }) => path.startsWith(folder))
    if (manifest === undefined) return [`${path}: belongs to no package`]
    return importsOf(readFileSync(join(ROOT, path), 'utf8')).flatMap((specifier) => {
      const reason = judgeImport({ path, specifier }, manifest, services)
      return reason === undefined ? [] : [`${path}: '${specifier}': ${reason}`]
    })
  })
}

interface PackageJson {
  readonly name: string
  readonly dependencies?: Record<string, string>
  readonly devDependencies?: Record<string, string>
}

function readManifests(): (Manifest & { readonly folder: string })[] {
  const forAll = Object.keys(readJson('package.json').devDependencies ?? {})
  // What is in no other package is the root's: its scripts.
  const folders = [...trackedFiles(['/package.json']), 'package.json']
  return folders.map((path) => {
    const json = readJson(path)
    return {
      folder: path === 'package.json' ? '' : `${dirname(path)}/`,
      name: json.name,
      dependencies: new Set(Object.keys(json.dependencies ?? {})),
      devDependencies: new Set([...forAll, ...Object.keys(json.devDependencies ?? {})]),
    }
  })
}

function readJson(path: string): PackageJson {
  return JSON.parse(readFileSync(join(ROOT, path), 'utf8'))
}

/** The folder that relative imports of a file may not leave. */
function islandOf(path: string): string {
  const [top = '', second = ''] = path.split('/')
  return top === 'test' ? 'test/' : `${top}/${second}/`
}

function isDomain(path: string): boolean {
  return /^services\/[^/]+\/src\/domain\//.test(path)
}

function isGenerated(path: string): boolean {
  return path.startsWith('libs/proto/src/gen/')
}
