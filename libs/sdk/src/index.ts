export * from './audit.ts'
export * from './audit-copies.ts'
export * from './context.ts'
export * from './contexts.ts'
export { HostClient } from './host-client.ts'
export { TenantLedger } from './tenant-ledger.ts'
export {
  type TenantLock,
  type TenantLocks,
  type TenantProposal,
  type TenantReview,
  type TenantSaying,
  type TenantWord,
} from './tenant-lock.ts'
export * from './types.ts'
export { type ConnectOptions, connect, type Weft } from './weft.ts'
