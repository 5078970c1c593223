export {
  type AddEndpoint,
  Lab,
  type LabOptions,
  type LabProcess,
  openLab,
  type StartOptions,
  startLab,
} from './lab.ts'
export { joinCommand, leaveCommand, newJoinToken } from './members.ts'
export type { NatMapping } from './nat.ts'
export * from './plan.ts'
export { removeLab } from './remove.ts'
export { requireRoot } from './root.ts'
export { exitCodeOf, type Outcome, type RunOptions } from './shell.ts'
export { NODE_FLAGS, stage } from './stage.ts'
export * from './topology.ts'
