import type { MethodDefinition } from '@grpc/grpc-js'
import type { Client } from '../src/index.ts'

type Method<Q extends boolean, A extends boolean> = MethodDefinition<string, string> & {
  readonly requestStream: Q
  readonly responseStream: A
}

/** A service with a method of each shape, whose messages are texts. */
export const Echo: {
  readonly one: Method<false, false>
  readonly collect: Method<true, false>
  readonly split: Method<false, true>
  readonly each: Method<true, true>
} = {
  one: method('One', false, false),
  collect: method('Collect', true, false),
  split: method('Split', false, true),
  each: method('Each', true, true),
}

export type EchoClient = Client<typeof Echo>

function method<Q extends boolean, A extends boolean>(
  name: string,
  requestStream: Q,
  responseStream: A,
): Method<Q, A> {
  return {
    path: `/test.Echo/${name}`,
    requestStream,
    responseStream,
    requestSerialize: (text) => Buffer.from(text),
    requestDeserialize: (bytes) => bytes.toString(),
    responseSerialize: (text) => Buffer.from(text),
    responseDeserialize: (bytes) => bytes.toString(),
  }
}
