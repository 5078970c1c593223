import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT, trackedFiles } from './repository.ts'

/** What must not be in a file, and why. */
const FORBIDDEN: readonly { readonly pattern: RegExp; readonly why: string }[] = [
  { pattern: /\b(?:TODO|FIXME|XXX|HACK)\b/, why: 'a leftover: do it or leave it out' },
  { pattern: /(?<![\w.$}])\/(?:home|root|work|Users)\/[\w.-]/, why: 'a path of one machine' },
  { pattern: /\/tmp\/(?!weft)[a-z]/, why: 'a folder of one machine: make one with mkdtemp' },
  {
    pattern: /"resolved": "(?!https:\/\/registry\.npmjs\.org\/)http/,
    why: 'a registry of one place',
  },
  { pattern: /\bartifactory\b/i, why: 'a registry of one place' },
  { pattern: /\b(?:test|describe|it)\.only\(/, why: 'switches all other tests off' },
]

/** The patterns themselves are in these. */
const EXEMPT = ['test/check/words.ts', 'test/check/words.test.ts']
const BINARY = /\.(?:binpb|png|ico|gz)$/

/** Lines of a text that contain something forbidden, as `line: reason: text`. */
export function judgeText(text: string): string[] {
  return text
    .split('\n')
    .flatMap((line, index) =>
      FORBIDDEN.filter(({ pattern }) => pattern.test(line)).map(
        ({ why }) => `${index + 1}: ${why}: ${line.trim().slice(0, 120)}`,
      ),
    )
}

/** Lines of the project's files that contain something forbidden. */
export function findForbiddenWords(): string[] {
  return trackedFiles()
    .filter((path) => !EXEMPT.includes(path) && !BINARY.test(path))
    .flatMap((path) =>
      judgeText(readFileSync(join(ROOT, path), 'utf8')).map((finding) => `${path}:${finding}`),
    )
}
