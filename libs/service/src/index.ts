export { type RunningService, run, type ServiceContext, type ServiceDefinition } from './run.ts'
