import { join } from 'node:path'
import type { Lab } from '@weft/lab'
import { ROOT } from '../../check/repository.ts'
import { sharedLab } from './lab.ts'

/** The lab of the scenarios in `wide`. */
export function wideLab(): Promise<Lab> {
  return sharedLab({ topology: join(ROOT, 'test/e2e/wide/topology.yaml') })
}
