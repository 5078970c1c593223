import { createPrivateKey } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { runCli } from '@weft/cli'
import type { Lab } from '@weft/lab'
import { at } from './lab.ts'
import { PrivateFolder } from './members.ts'

/** Something that nobody may ever see, with a name for the report. */
export interface Secret {
  readonly name: string
  /** How it may be written. */
  readonly forms: readonly Buffer[]
}

/** Where secrets could come to light, by kind. */
export const PLACES = [
  'arguments',
  'environment',
  'log',
  'trace',
  'metrics',
  'command',
  'stream',
  'audit',
  'state',
  'crash',
] as const

export type PlaceKind = (typeof PLACES)[number]

export interface Found {
  readonly kind: PlaceKind
  readonly where: string
  readonly secret: string
}

/** Names of files that hold secrets; nothing else does. */
const SECRET_FILE = /(?:\.key|\.key\.next|\.seed|\.seed\.next|^key\.pem)$/
/** A file larger than this would be no log of a lab any more. */
const FILE_MAX_BYTES = 256 << 20
/** Every form of a secret that is a text has at least this length, so that nothing else is taken for one. */
const FORM_MIN_BYTES = 20

/** What reads without changing anything, in all its forms of output. */
const COMMANDS = [
  'status',
  'tenant ls',
  'zone ls',
  'network ls',
  'host ls',
  'host show alpha',
  'endpoint ls',
  'endpoint show blue/phone',
  'port ls',
  'connection ls',
  'connection ls --open',
  'token ls',
  'user ls',
  'context ls',
  'audit ls --last 1000',
  'audit verify',
] as const

/** Paths of all files below a folder that hold secrets. */
export function secretFiles(folder: string): string[] {
  return filesBelow(folder).filter((path) => SECRET_FILE.test(path.split('/').at(-1) ?? ''))
}

/** All private keys and seeds of a lab, each once. */
export function secretsOf(lab: Lab): Secret[] {
  const found = new Map<string, Secret>()
  for (const path of secretFiles(lab.plan.folder)) {
    const text = readFileSync(path, 'utf8').trim()
    found.set(text, {
      name: path,
      forms: text.includes('PRIVATE KEY') ? formsOfKey(text) : formsOfText(text),
    })
  }
  return [...found.values()]
}

/** A token, a code or a seed. */
export function textSecret(name: string, text: string): Secret {
  return { name, forms: formsOfText(text) }
}

/** A key of 32 bytes, in base64 as WireGuard has it. */
export function keySecret(name: string, base64: string): Secret {
  const raw = Buffer.from(base64, 'base64')
  return { name, forms: [raw, ...texts([base64, raw.toString('hex')]), numbers(raw)] }
}

/** Everything in which a secret could come to light, and what of these it holds. */
export async function searchEverywhere(
  lab: Lab,
  secrets: readonly Secret[],
  more: { readonly crashFolder: string; readonly metricsUrl: string },
): Promise<Found[]> {
  const found: Found[] = []
  const look = (kind: PlaceKind, where: string, bytes: Buffer): void => {
    for (const { name, forms } of secrets) {
      if (forms.some((form) => bytes.includes(form))) found.push({ kind, where, secret: name })
    }
  }
  for (const pid of lab.processIds()) {
    look('arguments', `/proc/${pid}/cmdline`, readOrNothing(`/proc/${pid}/cmdline`))
    look('environment', `/proc/${pid}/environ`, readOrNothing(`/proc/${pid}/environ`))
  }
  const { folder, hosts } = lab.plan
  const folders: (readonly [kind: PlaceKind, below: string])[] = [
    ['log', `${folder}/log`],
    ['trace', `${folder}/trace`],
    ['stream', `${folder}/control/nats/store`],
  ]
  for (const name of readdirSync(`${folder}/control`)) {
    folders.push(['audit', `${folder}/control/${name}/audit`])
  }
  for (const host of hosts) {
    folders.push(['state', `${host.folder}/forwarder`], ['state', `${host.folder}/shuttle`])
  }
  folders.push(['crash', more.crashFolder])
  for (const [kind, below] of folders) {
    for (const path of filesBelow(below)) look(kind, path, readOrNothing(path))
  }
  for (const url of [...metricsOf(lab), more.metricsUrl]) {
    const { stdout } = await at(lab, 'control').run(['curl', '--silent', '--max-time', '5', url])
    look('metrics', url, Buffer.from(stdout))
  }
  using context = new PrivateFolder()
  const env = { WEFT_CONTEXT: context.write('context.json', JSON.stringify(lab.context)) }
  for (const line of COMMANDS) {
    for (const format of ['table', 'json']) {
      const told = await outputOf([...line.split(' '), '-o', format], env)
      look('command', `weft ${line} -o ${format}`, Buffer.from(told))
    }
  }
  return found
}

/** All that a command writes; it runs in this process, because there are many. */
async function outputOf(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<string> {
  let output = ''
  const take = (text: string): void => {
    output += text
  }
  await runCli(argv, {
    stdout: take,
    stderr: take,
    env,
    isTerminal: false,
    isErrorTerminal: false,
    isInputTerminal: false,
    columns: 200,
    readInput: () => Promise.resolve(''),
    ask: () => Promise.resolve(''),
  })
  return output
}

/** Of the services, and what nats-server tells on the loopback address. */
function metricsOf(lab: Lab): string[] {
  const nats = ['varz', 'connz?auth=1&subs=1', 'accountz', 'jsz?streams=1&config=1&consumers=1']
  return [
    ...lab
      .processes()
      .flatMap(({ metricsListen }) => metricsListen ?? [])
      .map((listen) => `http://${listen}/metrics`),
    ...nats.map((path) => `http://127.0.0.1:8222/${path}`),
  ]
}

/** A key as a file has it, and its own bytes as anybody might print them. */
function formsOfKey(pem: string): Buffer[] {
  const key = createPrivateKey(pem)
  const { d = '' } = key.export({ format: 'jwk' })
  const raw = Buffer.from(d, 'base64url')
  const body = pem.replaceAll(/-----[A-Z ]+-----|\s/g, '')
  return [raw, ...texts([body, raw.toString('hex'), raw.toString('base64'), d]), numbers(raw)]
}

function formsOfText(text: string): Buffer[] {
  const bytes = Buffer.from(text)
  // The last part of a token alone is the secret.
  const secret = text.split('.').at(-1) ?? text
  return [...texts([text, secret, bytes.toString('hex'), bytes.toString('base64')]), numbers(bytes)]
}

/** As JSON and inspect() write bytes. */
function numbers(bytes: Buffer): Buffer {
  return Buffer.from([...bytes].join(','))
}

function texts(forms: readonly string[]): Buffer[] {
  return forms.filter(({ length }) => length >= FORM_MIN_BYTES).map((form) => Buffer.from(form))
}

function filesBelow(folder: string): string[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
}

/** A process may have ended, and a file may be gone. */
function readOrNothing(path: string): Buffer {
  try {
    if (statSync(path).size > FILE_MAX_BYTES) throw new RangeError(`${path} is too large to search`)
    return readFileSync(path)
  } catch (error) {
    if (error instanceof RangeError) throw error
    return Buffer.alloc(0)
  }
}
