import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** Folder of the clone. */
export const ROOT: string = join(dirname(fileURLToPath(import.meta.url)), '../..')

/** Files of the project (what git tracks or would track) whose name ends with one of `endings`; paths from the root. */
export function trackedFiles(endings: readonly string[] = ['']): string[] {
  const output = execFileSync(
    'git',
    ['ls-files', '--cached', '--others', '--exclude-standard', '-z'],
    {
      cwd: ROOT,
      encoding: 'utf8',
      maxBuffer: 64 << 20,
    },
  )
  return output
    .split('\0')
    .filter((path) => path !== '' && endings.some((ending) => path.endsWith(ending)))
    .filter((path) => existsSync(join(ROOT, path)))
}
