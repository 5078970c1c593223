import { EventEmitter, on } from 'node:events'
import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire'
import type { MethodDefinition } from '@grpc/grpc-js'
import { healthAccess } from '@weft/access'
import { UnimplementedError } from '@weft/errors'
import { type Implementation, implement } from './types.ts'

/*
 * The health service that gRPC defines (github.com/grpc/grpc/blob/master/doc/health-checking.md). Its two messages have one
 * field each and are written here by hand: the library reads a .proto file at run time, which a bundle does not have.
 */

/** What a health check is told: SERVING, NOT_SERVING, SERVICE_UNKNOWN. */
export const ServingStatus = { Serving: 1, NotServing: 2, ServiceUnknown: 3 } as const
export type ServingStatus = (typeof ServingStatus)[keyof typeof ServingStatus]

/** `HealthCheckRequest`; the empty name is the whole server. */
export interface HealthCheckRequest {
  readonly service: string
}

/** `HealthCheckResponse`. */
export interface HealthCheckResponse {
  readonly status: ServingStatus
}

/** `grpc.health.v1.Health`. */
export const HealthService: {
  readonly check: HealthMethod<false>
  readonly watch: HealthMethod<true>
} = { check: healthMethod('Check', false), watch: healthMethod('Watch', true) }

type HealthMethod<Streams extends boolean> = MethodDefinition<
  HealthCheckRequest,
  HealthCheckResponse
> & {
  readonly requestStream: false
  readonly responseStream: Streams
}

/** Health of a server and of each of its services: all the same. */
export function health(names: readonly string[]): {
  readonly implementation: Implementation
  readonly setServing: (isServing: boolean) => void
} {
  const changes = new EventEmitter()
  changes.setMaxListeners(0)
  let current: ServingStatus = ServingStatus.Serving
  const statusOf = (name: string): ServingStatus =>
    name === '' || names.includes(name) ? current : ServingStatus.ServiceUnknown
  return {
    implementation: implement(
      HealthService,
      {
        check: async ({ service }) => {
          const status = statusOf(service)
          // NOT_FOUND is what the protocol asks for; the closest that callers of ours may act on is a wrong address.
          if (status === ServingStatus.ServiceUnknown) {
            throw new UnimplementedError({ what: `service ${service}` })
          }
          return { status }
        },
        watch: async function* ({ service }, { signal }) {
          yield { status: statusOf(service) }
          try {
            for await (const _change of on(changes, 'change', { signal })) {
              yield { status: statusOf(service) }
            }
          } catch (error) {
            if (!signal.aborted) throw error
          }
        },
      },
      healthAccess,
    ),
    setServing(isServing) {
      current = isServing ? ServingStatus.Serving : ServingStatus.NotServing
      changes.emit('change')
    },
  }
}

function healthMethod<Streams extends boolean>(
  name: string,
  responseStream: Streams,
): HealthMethod<Streams> {
  return {
    path: `/grpc.health.v1.Health/${name}`,
    requestStream: false,
    responseStream,
    requestSerialize: ({ service }) =>
      Buffer.from(new BinaryWriter().uint32(10).string(service).finish()),
    requestDeserialize: (bytes) => {
      const reader = new BinaryReader(bytes)
      return { service: reader.len > 0 && reader.tag()[0] === 1 ? reader.string() : '' }
    },
    responseSerialize: ({ status }) =>
      Buffer.from(new BinaryWriter().uint32(8).int32(status).finish()),
    responseDeserialize: (bytes) => {
      const reader = new BinaryReader(bytes)
      reader.tag()
      return { status: reader.int32() as ServingStatus }
    },
  }
}
