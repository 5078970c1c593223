import { randomBytes } from 'node:crypto'
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { BrokenInputError, InvalidArgumentError } from '@weft/errors'

/** Where a domain is, and as whom. */
export interface ContextEntry {
  readonly control?: string
  readonly tenant?: string
  readonly identity?: string
  readonly hosts?: { readonly [name: string]: string }
  readonly localHost?: string
}

/** The contexts of one person, of which one is current. */
export interface Contexts {
  readonly current: string | undefined
  readonly contexts: { readonly [name: string]: ContextEntry }
}

/** What a file says: one context, as a lab writes it, or several, as `weft login` does. */
export type ContextFile =
  | { readonly kind: 'one'; readonly entry: ContextEntry }
  | { readonly kind: 'several'; readonly contexts: Contexts }

const FILE_MAX_BYTES = 1024 * 1024
const CONTEXTS_MAX = 256

/** Where contexts are kept: `WEFT_CONTEXT`, or in the folder for configuration of the XDG base directories. */
export function contextsPath(env: NodeJS.ProcessEnv): string | undefined {
  return env['WEFT_CONTEXT'] ?? configPath(env, 'contexts.json')
}

/** A path among a person's configuration of weft; undefined for who has no home. */
export function configPath(env: NodeJS.ProcessEnv, ...names: string[]): string | undefined {
  const folder = env['XDG_CONFIG_HOME'] || (env['HOME'] ? join(env['HOME'], '.config') : undefined)
  return folder && join(folder, 'weft', ...names)
}

/** All contexts of a person; none if there is no file yet. @throws InvalidArgumentError; BrokenInputError */
export function readContexts(env: NodeJS.ProcessEnv): Contexts {
  const path = contextsPath(env)
  const file = path === undefined ? undefined : readContextFile(path)
  if (file === undefined) return { current: undefined, contexts: {} }
  if (file.kind === 'several') return file.contexts
  throw new InvalidArgumentError({
    field: 'WEFT_CONTEXT',
    problem: `${path} holds one context, and not a list of them`,
    remedy: 'unset it to use your own',
  })
}

/** Replaces the file as a whole. @throws InvalidArgumentError for who has no home, or too many contexts */
export function writeContexts(env: NodeJS.ProcessEnv, { current, contexts }: Contexts): void {
  const path = contextsPath(env)
  if (path === undefined) {
    const remedy = 'set HOME, or WEFT_CONTEXT=FILE'
    throw new InvalidArgumentError({ field: 'HOME', problem: 'it is not set', remedy })
  }
  if (Object.keys(contexts).length > CONTEXTS_MAX) {
    const remedy = 'remove some of them'
    throw new InvalidArgumentError({
      field: path,
      problem: `at most ${CONTEXTS_MAX} contexts are kept`,
      remedy,
    })
  }
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const beside = `${path}.${randomBytes(4).toString('hex')}`
  try {
    const file = openSync(beside, 'wx', 0o600)
    try {
      writeFileSync(file, `${JSON.stringify({ current, contexts }, undefined, 2)}\n`)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    renameSync(beside, path)
  } catch (error) {
    rmSync(beside, { force: true })
    throw error
  }
}

/** Undefined if there is no such file. Paths in it are from its own folder. @throws InvalidArgumentError; BrokenInputError */
export function readContextFile(path: string): ContextFile | undefined {
  const text = readBounded(path)
  if (text === undefined) return undefined
  const wrong = (problem: string): BrokenInputError =>
    new BrokenInputError({ source: path, format: 'JSON', problem })
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw wrong(error instanceof Error ? error.message : String(error))
  }
  if (!isObject(value)) throw wrong('it is no object')
  if (!('contexts' in value)) return { kind: 'one', entry: entryOf(value, path, wrong) }
  const { current, contexts } = value
  if (!isObject(contexts)) throw wrong('contexts is no object')
  if (current !== undefined && typeof current !== 'string') throw wrong('current is no text')
  const entries = Object.entries(contexts).map(([name, entry]) => {
    if (!isObject(entry)) throw wrong(`context ${name} is no object`)
    return [name, entryOf(entry, path, wrong)]
  })
  return { kind: 'several', contexts: { current, contexts: Object.fromEntries(entries) } }
}

function entryOf(
  value: Record<string, unknown>,
  path: string,
  wrong: (problem: string) => BrokenInputError,
): ContextEntry {
  const text = (name: string): string | undefined => {
    const part = value[name]
    if (part === undefined || part === null) return undefined
    if (typeof part !== 'string') throw wrong(`${name} is no text`)
    return part
  }
  const { hosts = {} } = value
  if (!isObject(hosts)) throw wrong('hosts is no object')
  const wrongHost = Object.keys(hosts).find((name) => typeof hosts[name] !== 'string')
  if (wrongHost !== undefined) throw wrong(`hosts.${wrongHost} is no text`)
  const [control, tenant, localHost] = [text('control'), text('tenant'), text('localHost')]
  const identity = text('identity')
  return {
    ...(control !== undefined && { control }),
    ...(tenant !== undefined && { tenant }),
    ...(identity !== undefined && { identity: resolve(dirname(path), identity) }),
    ...(localHost !== undefined && { localHost }),
    hosts: hosts as Record<string, string>,
  }
}

function readBounded(path: string): string | undefined {
  const unreadable = (problem: string): InvalidArgumentError =>
    new InvalidArgumentError({
      field: 'context',
      problem: `${path} cannot be read: ${problem}`,
      remedy: 'unset WEFT_CONTEXT, or name the file of a lab that runs',
    })
  try {
    const { size } = statSync(path)
    if (size > FILE_MAX_BYTES) throw unreadable(`it has ${size} bytes`)
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (error instanceof InvalidArgumentError) throw error
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw unreadable(error instanceof Error ? error.message : String(error))
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
