import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { findForbiddenImports } from './imports.ts'
import { ROOT, trackedFiles } from './repository.ts'
import type { Check } from './run-checks.ts'
import { findForbiddenWords } from './words.ts'

const RUST = join(ROOT, 'libs/shuttle')
const tool = (name: string): string => join(ROOT, 'node_modules/.bin', name)
/** Shares its results with the build that set-up made. */
const cargo = (...words: string[]): readonly string[] => ['cargo', ...words, '--locked']

/** In the order in which they start: the longest first, so that the others fit beside them. */
export const CHECKS: readonly Check[] = [
  {
    name: 'clippy',
    what: 'Rust: clippy, no warnings',
    lane: 'cargo',
    cwd: RUST,
    command: [...cargo('clippy', '--workspace', '--all-targets'), '--', '-D', 'warnings'],
  },
  {
    name: 'layouts',
    what: 'structures of abi.h, Rust and BTF agree',
    lane: 'cargo',
    cwd: RUST,
    command: cargo('test', '--package', 'weft-abi', '--quiet'),
  },
  {
    name: 'rustfmt',
    what: 'Rust: format',
    cwd: RUST,
    command: ['cargo', 'fmt', '--all', '--check'],
  },
  { name: 'types', what: 'TypeScript: types', command: [tool('tsc'), '--project', ROOT] },
  {
    name: 'lint',
    what: 'TypeScript: lint, with types',
    command: [tool('oxlint'), '--type-aware', '--deny-warnings'],
  },
  { name: 'imports', what: 'who may import whom', find: findForbiddenImports },
  {
    name: 'format',
    what: 'TypeScript, JSON: format and order of imports',
    command: [tool('biome'), 'check', '--error-on-warnings', '--max-diagnostics=50'],
  },
  { name: 'proto-lint', what: 'contracts: lint', command: [tool('buf'), 'lint'] },
  {
    name: 'proto-breaking',
    what: 'contracts: nothing breaks what is released',
    command: [tool('buf'), 'breaking', '--against', 'proto/baseline.binpb'],
  },
  {
    name: 'clang-format',
    what: 'C: format',
    command: ['clang-format', '--dry-run', '-Werror', ...trackedFiles(['.c', '.h'])],
  },
  { name: 'words', what: 'no leftovers and no paths of one machine', find: findForbiddenWords },
  {
    name: 'scripts',
    what: 'shell: syntax',
    command: ['bash', '-n', ...trackedFiles(['.sh']), ...existing('.ci/run')],
  },
]

function existing(...paths: string[]): string[] {
  return paths.filter((path) => existsSync(join(ROOT, path)))
}
