import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Lab } from '@weft/lab'
import { ROOT } from '../../check/repository.ts'
import { type Ended, run } from '../../support/place.ts'

const CLI = join(ROOT, 'libs/cli/src/main.ts')

/** Runs the command `weft` against a lab. */
export async function weft(lab: Lab, argv: readonly string[]): Promise<Ended> {
  const folder = mkdtempSync(join(tmpdir(), 'weft-test-'))
  try {
    const context = join(folder, 'context.json')
    writeFileSync(context, JSON.stringify(lab.context))
    return await run(['env', `WEFT_CONTEXT=${context}`, process.execPath, CLI, ...argv])
  } finally {
    rmSync(folder, { recursive: true })
  }
}
