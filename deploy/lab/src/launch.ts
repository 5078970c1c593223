import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, chownSync, closeSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { inNamespace } from './shell.ts'

/** A folder that a process of the lab needs, with who may use it. */
export interface FolderSpec {
  readonly path: string
  readonly mode: number
  /** By default the process's own. */
  readonly gid?: number
}

/** A process of the lab: where it runs, as whom, with which privileges. */
export interface ProcessSpec {
  /** Unique in the lab, for example `config` or `shuttle@alpha`. */
  readonly name: string
  readonly namespace: string
  readonly argv: readonly string[]
  /** Words before `argv`: a program that keeps this one's descriptors and starts it again. */
  readonly keeper?: readonly string[]
  readonly env: { readonly [name: string]: string }
  readonly uid: number
  /** Groups besides its own, whose number is that of its user. */
  readonly groups: readonly number[]
  /** Names of capabilities without `CAP_`, lower case; it has these and can never get others. */
  readonly capabilities: readonly string[]
  /** Created before it starts, owned by it. */
  readonly folders: readonly FolderSpec[]
}

export interface LaunchFolders {
  readonly log: string
  readonly trace: string
  /** Owner of the log files. */
  readonly keeperUid: number
}

/** Starts a process in the background; it outlives the one that starts it. */
export function launch(spec: ProcessSpec, folders: LaunchFolders): ChildProcess {
  for (const folder of spec.folders) {
    mkdirSync(folder.path, { recursive: true, mode: 0o755 })
    chownSync(folder.path, spec.uid, folder.gid ?? spec.uid)
    chmodSync(folder.path, folder.mode)
  }
  const traceFile = join(folders.trace, `${spec.name}.jsonl`)
  closeSync(openSync(traceFile, 'a', 0o660))
  chownSync(traceFile, spec.uid, folders.keeperUid)
  chmodSync(traceFile, 0o660)
  const log = openSync(join(folders.log, `${spec.name}.log`), 'a', 0o640)
  chownSync(join(folders.log, `${spec.name}.log`), folders.keeperUid, folders.keeperUid)

  const program = [...(spec.keeper ?? []), ...spec.argv]
  const argv = [...inNamespace(spec.namespace), ...asUser(spec), ...program]
  const [command = '', ...words] = argv
  const child = spawn(command, words, {
    cwd: '/',
    detached: true,
    env: {
      PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
      LANG: 'C.UTF-8',
      WEFT_TRACE_FILE: traceFile,
      ...spec.env,
    },
    stdio: ['ignore', log, log],
  })
  closeSync(log)
  child.unref()
  return child
}

/** Gives up everything but the capabilities that the process needs. */
function asUser({ uid, groups, capabilities }: ProcessSpec): string[] {
  const set = ['-all', ...capabilities.map((name) => `+${name}`)].join(',')
  return [
    'setpriv',
    `--reuid=${uid}`,
    `--regid=${uid}`,
    groups.length === 0 ? '--clear-groups' : `--groups=${groups.join(',')}`,
    `--inh-caps=${set}`,
    `--ambient-caps=${set}`,
    `--bounding-set=${set}`,
    '--no-new-privs',
    '--',
  ]
}
