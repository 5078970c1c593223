export { type ClientOptions, connect, DEADLINE_DEFAULT_MS } from './client.ts'
export {
  type HealthCheckRequest,
  type HealthCheckResponse,
  HealthService,
  ServingStatus,
} from './health.ts'
export { MESSAGE_MAX_BYTES } from './limits.ts'
export { type ServeOptions, type Server, serve } from './server.ts'
export {
  type CallContext,
  type CallOptions,
  type Client,
  type Handlers,
  type Implementation,
  implement,
  type ServiceDefinition,
} from './types.ts'
