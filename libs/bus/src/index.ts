export * from './bus.ts'
export {
  type ConnectOptions,
  connectBus,
  RENEWAL_PAUSE_MAX_MS,
  WATCH_HEARTBEAT_MS,
} from './connect.ts'
export { type BucketCopy, follow } from './follow.ts'
export { type MemoryBus, memoryBus } from './memory.ts'
export { keepMirror, type MirrorOptions } from './mirror.ts'
export * from './subjects.ts'
