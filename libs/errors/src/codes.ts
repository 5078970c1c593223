/** Status codes of gRPC (github.com/grpc/grpc/blob/master/doc/statuscodes.md). */
export const GrpcStatus = {
  Ok: 0,
  Cancelled: 1,
  Unknown: 2,
  InvalidArgument: 3,
  DeadlineExceeded: 4,
  NotFound: 5,
  AlreadyExists: 6,
  PermissionDenied: 7,
  ResourceExhausted: 8,
  FailedPrecondition: 9,
  Aborted: 10,
  OutOfRange: 11,
  Unimplemented: 12,
  Internal: 13,
  Unavailable: 14,
  DataLoss: 15,
  Unauthenticated: 16,
} as const
export type GrpcStatus = (typeof GrpcStatus)[keyof typeof GrpcStatus]

/** Exit codes of every command of ours. */
export const ExitCode = {
  Ok: 0,
  /** A defect of ours. */
  Internal: 1,
  /** Wrong usage or input. */
  BadInput: 2,
  NotFound: 3,
  /** It exists, is in use, is taken or changed meanwhile. */
  Conflict: 4,
  /** Something that has to answer does not; trying again later may help. */
  Unavailable: 5,
  /** Not allowed, or not possible without breaking a promise. */
  Refused: 6,
  /** The machine lacks something. */
  Environment: 7,
} as const
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode]

/**
 * Every reason on which a caller may act, with its gRPC status and its exit code. RESOURCE_EXHAUSTED and UNAVAILABLE
 * mean that the same call may be tried again later, and nothing else does: clients retry them by themselves.
 */
export const reasons = {
  'invalid-argument': { grpc: 3, exit: 2 },
  'invalid-name': { grpc: 3, exit: 2 },
  'invalid-address': { grpc: 3, exit: 2 },
  'invalid-prefix': { grpc: 3, exit: 2 },
  'invalid-mac': { grpc: 3, exit: 2 },
  'invalid-mtu': { grpc: 3, exit: 2 },
  'invalid-vni': { grpc: 3, exit: 2 },
  'invalid-config': { grpc: 3, exit: 2 },
  'prefix-overlap': { grpc: 3, exit: 2 },
  'address-outside-prefix': { grpc: 3, exit: 2 },
  'address-reserved': { grpc: 3, exit: 2 },
  'ambiguous-name': { grpc: 3, exit: 2 },
  'broken-input': { grpc: 3, exit: 2 },
  'message-too-large': { grpc: 3, exit: 2 },
  'tenant-not-found': { grpc: 5, exit: 3 },
  'zone-not-found': { grpc: 5, exit: 3 },
  'network-not-found': { grpc: 5, exit: 3 },
  'host-not-found': { grpc: 5, exit: 3 },
  'endpoint-not-found': { grpc: 5, exit: 3 },
  'port-not-found': { grpc: 5, exit: 3 },
  'endpoint-not-located': { grpc: 5, exit: 3 },
  'user-not-found': { grpc: 5, exit: 3 },
  'token-not-found': { grpc: 5, exit: 3 },
  'netns-missing': { grpc: 5, exit: 3 },
  'device-missing': { grpc: 5, exit: 3 },
  'tenant-exists': { grpc: 6, exit: 4 },
  'zone-exists': { grpc: 6, exit: 4 },
  'network-exists': { grpc: 6, exit: 4 },
  'host-exists': { grpc: 6, exit: 4 },
  'endpoint-exists': { grpc: 6, exit: 4 },
  'user-exists': { grpc: 6, exit: 4 },
  'address-taken': { grpc: 6, exit: 4 },
  'mac-taken': { grpc: 6, exit: 4 },
  'vni-taken': { grpc: 6, exit: 4 },
  'underlay-address-taken': { grpc: 6, exit: 4 },
  'tenant-in-use': { grpc: 9, exit: 4 },
  'tenant-not-locked': { grpc: 9, exit: 4 },
  'zone-in-use': { grpc: 9, exit: 4 },
  'network-in-use': { grpc: 9, exit: 4 },
  'host-in-use': { grpc: 9, exit: 4 },
  'endpoint-in-use': { grpc: 9, exit: 4 },
  'network-full': { grpc: 9, exit: 4 },
  'limit-reached': { grpc: 9, exit: 4 },
  'endpoint-attached-elsewhere': { grpc: 9, exit: 4 },
  'endpoint-not-assigned': { grpc: 9, exit: 4 },
  'device-already-attached': { grpc: 9, exit: 4 },
  'device-name-taken': { grpc: 9, exit: 4 },
  'client-key-taken': { grpc: 9, exit: 4 },
  'other-client-attached': { grpc: 9, exit: 4 },
  'idempotency-mismatch': { grpc: 9, exit: 4 },
  'revision-conflict': { grpc: 10, exit: 4 },
  unavailable: { grpc: 14, exit: 5 },
  'audit-unavailable': { grpc: 14, exit: 5 },
  overloaded: { grpc: 8, exit: 5 },
  'deadline-exceeded': { grpc: 4, exit: 5 },
  'unknown-outcome': { grpc: 2, exit: 5 },
  cancelled: { grpc: 1, exit: 5 },
  'no-common-trusted-zone': { grpc: 9, exit: 6 },
  'encryption-unavailable': { grpc: 9, exit: 6 },
  'different-networks': { grpc: 9, exit: 6 },
  'sealing-unavailable': { grpc: 9, exit: 6 },
  'no-candidate': { grpc: 9, exit: 6 },
  'permission-denied': { grpc: 7, exit: 6 },
  unauthenticated: { grpc: 16, exit: 6 },
  'certificate-refused': { grpc: 16, exit: 6 },
  'statement-refused': { grpc: 16, exit: 6 },
  'token-refused': { grpc: 7, exit: 6 },
  'host-revoked': { grpc: 7, exit: 6 },
  'tenant-locked': { grpc: 9, exit: 6 },
  'not-enrolled': { grpc: 9, exit: 7 },
  'clock-wrong': { grpc: 9, exit: 7 },
  'nats-too-old': { grpc: 9, exit: 7 },
  'port-in-use': { grpc: 9, exit: 7 },
  'needs-root': { grpc: 7, exit: 7 },
  'kernel-feature-missing': { grpc: 9, exit: 7 },
  'tool-missing': { grpc: 9, exit: 7 },
  unimplemented: { grpc: 12, exit: 1 },
  internal: { grpc: 13, exit: 1 },
} as const

/** Stable name of a reason, in kebab case. */
export type ErrorCode = keyof typeof reasons
