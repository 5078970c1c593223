export { type ClientOptions, connect } from './client.ts'
export { HealthService, ServingStatus } from './health.ts'
export { MESSAGE_MAX_BYTES, REQUEST_MAX_BYTES } from './limits.ts'
export type { ClientSecurity, ServerSecurity } from './security.ts'
export { type ServeOptions, type Server, serve } from './server.ts'
export {
  type CallContext,
  type CallOptions,
  type Client,
  GUARDED_BY_SOCKET,
  type Handlers,
  type Implementation,
  implement,
  type ServiceDefinition,
} from './types.ts'
