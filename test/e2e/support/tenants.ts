import { join } from 'node:path'
import type { Lab } from '@weft/lab'
import { ROOT } from '../../check/repository.ts'
import { sharedLab } from './lab.ts'

/** The lab of the scenarios in `tenants`. */
export function tenantsLab(): Promise<Lab> {
  return sharedLab({ topology: join(ROOT, 'test/e2e/tenants/topology.yaml') })
}
