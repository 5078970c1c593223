import { readFileSync } from 'node:fs'
import { BrokenInputError, HostNotFoundError, InvalidArgumentError } from '@weft/errors'

/** Written by a running lab: where its control server and hosts answer. */
export const LAB_CONTEXT_FILE = '/run/weft-lab/context.json'
/** Where a forwarder that was installed on this machine answers. */
export const HOST_SOCKET_DEFAULT = '/run/weft/host.sock'

/** Where to find a control server and hosts. */
export interface Context {
  /** `HOST:PORT` or `unix:/PATH` of the control server. */
  readonly control: string | undefined
  /** Tenant that is meant when none is named. */
  readonly tenant: string
  /** Host APIs by host name, `unix:/PATH` each. */
  readonly hosts: { readonly [name: string]: string }
  /** Host API of the machine that this runs on. */
  readonly localHost: string | undefined
}

/**
 * Finds the context: `WEFT_CONTROL`, `WEFT_HOST_SOCKET` and `WEFT_TENANT` go before the file that `WEFT_CONTEXT` names,
 * which goes before that of a running lab.
 */
export function findContext(env: NodeJS.ProcessEnv): Context {
  const path = env['WEFT_CONTEXT']
  const file = readContextFile(path ?? LAB_CONTEXT_FILE, path === undefined)
  const socket = env['WEFT_HOST_SOCKET']
  return {
    control: env['WEFT_CONTROL'] ?? file?.control,
    tenant: env['WEFT_TENANT'] ?? file?.tenant ?? 'default',
    hosts: file?.hosts ?? {},
    localHost: socket === undefined ? undefined : asTarget(socket),
  }
}

/** The control server's address. @throws InvalidArgumentError if none is known */
export function controlOf(context: Context): string {
  if (context.control !== undefined) return context.control
  throw new InvalidArgumentError({
    field: 'WEFT_CONTROL',
    problem: 'no control server is known here',
    remedy: 'start a lab (npm run lab), or say where one answers: WEFT_CONTROL=HOST:PORT',
  })
}

/**
 * The address of a host's API; without a name that of this machine, or of the only host there is.
 * @throws HostNotFoundError for a name that the context does not have; InvalidArgumentError if several are meant
 */
export function hostOf(context: Context, name?: string): string {
  if (name !== undefined) {
    const target = context.hosts[name]
    if (target === undefined) throw new HostNotFoundError({ host: name })
    return target
  }
  if (context.localHost !== undefined) return context.localHost
  const names = Object.keys(context.hosts)
  const only = names.length === 1 ? context.hosts[names[0] ?? ''] : undefined
  if (only !== undefined) return only
  if (names.length === 0) return asTarget(HOST_SOCKET_DEFAULT)
  throw new InvalidArgumentError({
    field: 'host',
    problem: `there are several here: ${names.join(', ')}`,
    remedy: 'name one: --host NAME',
  })
}

function readContextFile(path: string, mayBeMissing: boolean): Partial<Context> | undefined {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if (mayBeMissing) return undefined
    const problem = error instanceof Error ? error.message : String(error)
    throw new InvalidArgumentError({
      field: 'WEFT_CONTEXT',
      problem: `it cannot be read: ${problem}`,
      remedy: 'unset it, or name the file of a lab that runs',
    })
  }
  try {
    return JSON.parse(text) as Partial<Context>
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    throw new BrokenInputError({ source: path, format: 'JSON', problem })
  }
}

function asTarget(path: string): string {
  return path.startsWith('/') ? `unix:${path}` : path
}
