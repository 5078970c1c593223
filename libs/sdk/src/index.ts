export * from './context.ts'
export { HostClient } from './host-client.ts'
export * from './types.ts'
export { type ConnectOptions, connect, type Weft } from './weft.ts'
