import { serviceNames } from '@weft/identity'
import type { AccessRule } from '../rule.ts'

/** `grpc.health.v1.Health`: tells nothing but whether a server works. */
export const healthAccess: {
  readonly check: AccessRule<unknown>
  readonly watch: AccessRule<unknown>
} = {
  check: { services: serviceNames, hosts: 'any', users: 'any' },
  watch: { services: serviceNames, hosts: 'any', users: 'any' },
}

/** `grpc.reflection.v1.ServerReflection` and its older version. */
export const reflectionAccess: { readonly serverReflectionInfo: AccessRule<unknown> } = {
  serverReflectionInfo: { users: { roles: ['operator'], scope: 'domain' } },
}
