export {
  type AddEndpoint,
  Lab,
  type LabOptions,
  type LabProcess,
  openLab,
  startLab,
} from './lab.ts'
export * from './plan.ts'
export { processesIn, removeLab } from './remove.ts'
export { exitCodeOf, ip, mustRun, type Outcome, type RunOptions, run } from './shell.ts'
export { NODE_FLAGS, stage } from './stage.ts'
export { labNames } from './state.ts'
export * from './topology.ts'
