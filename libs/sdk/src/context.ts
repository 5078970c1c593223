import { HostNotFoundError, InvalidArgumentError } from '@weft/errors'
import { type ContextEntry, readContextFile, readContexts } from './contexts.ts'

/** Written by a running lab: where its control server and hosts answer. */
export const LAB_CONTEXT_FILE = '/run/weft-lab/context.json'
/** Where a forwarder that was installed on this machine answers. */
export const HOST_SOCKET_DEFAULT = '/run/weft/host.sock'

/** The context of a running lab, where no context of the person has this name. */
export const LAB_CONTEXT = 'lab'

/** Where to find a control server and hosts, and who asks. */
export interface Context {
  /** Among the person's contexts; undefined for one that has no name there. */
  readonly name?: string | undefined
  /** `HOST:PORT` or `unix:/PATH` of the control server. */
  readonly control: string | undefined
  /** Tenant that is meant when none is named. */
  readonly tenant: string
  /** Folder of the identity with which the control server is asked. */
  readonly identity?: string | undefined
  /** Host APIs by host name, `unix:/PATH` each. */
  readonly hosts: { readonly [name: string]: string }
  /** Host API of the machine that this runs on. */
  readonly localHost: string | undefined
}

/**
 * Finds the context: `WEFT_CONTROL`, `WEFT_HOST_SOCKET`, `WEFT_TENANT` and `WEFT_IDENTITY` go before the file that
 * `WEFT_CONTEXT` names, which goes before the current one of the person's contexts, which goes before a running lab.
 * @param name one of the person's contexts, or `lab`; by default the current one
 * @throws InvalidArgumentError if there is none of the name, or a file cannot be read; BrokenInputError
 */
export function findContext(env: NodeJS.ProcessEnv, name?: string): Context {
  const { name: found, entry } = findEntry(env, name) ?? {}
  const socket = env['WEFT_HOST_SOCKET']
  return {
    name: found,
    control: env['WEFT_CONTROL'] ?? entry?.control,
    tenant: env['WEFT_TENANT'] ?? entry?.tenant ?? 'default',
    identity: env['WEFT_IDENTITY'] ?? entry?.identity,
    hosts: entry?.hosts ?? {},
    localHost: socket === undefined ? entry?.localHost : asTarget(socket),
  }
}

/** The control server's address. @throws InvalidArgumentError if none is known */
export function controlOf(context: Context): string {
  if (context.control !== undefined) return context.control
  throw new InvalidArgumentError({
    field: 'WEFT_CONTROL',
    problem: 'no control server is known here',
    remedy:
      'log in (weft login), start a lab (npm run lab), or say where one answers: WEFT_CONTROL=HOST:PORT',
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

/** What `WEFT_CONTEXT` names, or the current context of the person, or a lab that runs. */
function findEntry(
  env: NodeJS.ProcessEnv,
  name: string | undefined,
): { readonly name: string | undefined; readonly entry: ContextEntry } | undefined {
  const path = env['WEFT_CONTEXT']
  const named = path === undefined ? undefined : readContextFile(path)
  if (path !== undefined && named === undefined) {
    throw new InvalidArgumentError({
      field: 'WEFT_CONTEXT',
      problem: `there is no file ${path}`,
      remedy: 'unset it, or name the file of a lab that runs',
    })
  }
  if (named?.kind === 'one' && name === undefined) return { name: undefined, entry: named.entry }
  const { current, contexts } = readContexts(env)
  const wanted = name ?? current
  if (wanted !== undefined && (wanted !== LAB_CONTEXT || wanted in contexts)) {
    const entry = Object.hasOwn(contexts, wanted) ? contexts[wanted] : undefined
    if (entry !== undefined) return { name: wanted, entry }
    throw new InvalidArgumentError({
      field: 'context',
      problem: `there is no context ${wanted}`,
      remedy: 'list them with: weft context ls',
    })
  }
  const lab = readContextFile(LAB_CONTEXT_FILE)
  return lab?.kind === 'one' ? { name: LAB_CONTEXT, entry: lab.entry } : undefined
}

function asTarget(path: string): string {
  return path.startsWith('/') ? `unix:${path}` : path
}
