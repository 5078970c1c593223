import type { ErrorCode } from './codes.ts'
import * as identity from './identity.ts'
import * as input from './input.ts'
import * as operation from './operation.ts'
import * as state from './state.ts'
import { type ErrorInfo, WeftError } from './weft-error.ts'

/** The class of every code. */
const classes: { readonly [Code in ErrorCode]: { readonly prototype: WeftError } } = {
  'invalid-argument': input.InvalidArgumentError,
  'invalid-name': input.InvalidNameError,
  'invalid-address': input.InvalidAddressError,
  'invalid-prefix': input.InvalidPrefixError,
  'invalid-mac': input.InvalidMacError,
  'invalid-mtu': input.InvalidMtuError,
  'invalid-vni': input.InvalidVniError,
  'invalid-config': input.InvalidConfigError,
  'prefix-overlap': input.PrefixOverlapError,
  'address-outside-prefix': input.AddressOutsidePrefixError,
  'address-reserved': input.AddressReservedError,
  'ambiguous-name': input.AmbiguousNameError,
  'broken-input': input.BrokenInputError,
  'message-too-large': input.MessageTooLargeError,
  'tenant-not-found': state.TenantNotFoundError,
  'zone-not-found': state.ZoneNotFoundError,
  'network-not-found': state.NetworkNotFoundError,
  'host-not-found': state.HostNotFoundError,
  'endpoint-not-found': state.EndpointNotFoundError,
  'port-not-found': state.PortNotFoundError,
  'endpoint-not-located': state.EndpointNotLocatedError,
  'user-not-found': state.UserNotFoundError,
  'token-not-found': state.TokenNotFoundError,
  'netns-missing': state.NetnsMissingError,
  'device-missing': state.DeviceMissingError,
  'tenant-exists': state.TenantExistsError,
  'zone-exists': state.ZoneExistsError,
  'network-exists': state.NetworkExistsError,
  'host-exists': state.HostExistsError,
  'endpoint-exists': state.EndpointExistsError,
  'user-exists': state.UserExistsError,
  'address-taken': state.AddressTakenError,
  'mac-taken': state.MacTakenError,
  'vni-taken': state.VniTakenError,
  'underlay-address-taken': state.UnderlayAddressTakenError,
  'tenant-in-use': state.TenantInUseError,
  'tenant-not-locked': identity.TenantNotLockedError,
  'zone-in-use': state.ZoneInUseError,
  'network-in-use': state.NetworkInUseError,
  'host-in-use': state.HostInUseError,
  'endpoint-in-use': state.EndpointInUseError,
  'network-full': state.NetworkFullError,
  'limit-reached': state.LimitReachedError,
  'endpoint-attached-elsewhere': state.EndpointAttachedElsewhereError,
  'endpoint-not-assigned': state.EndpointNotAssignedError,
  'device-already-attached': state.DeviceAlreadyAttachedError,
  'device-name-taken': state.DeviceNameTakenError,
  'client-key-taken': state.ClientKeyTakenError,
  'other-client-attached': state.OtherClientAttachedError,
  'idempotency-mismatch': state.IdempotencyMismatchError,
  'revision-conflict': state.RevisionConflictError,
  unavailable: operation.UnavailableError,
  'audit-unavailable': identity.AuditUnavailableError,
  overloaded: operation.OverloadedError,
  'deadline-exceeded': operation.DeadlineExceededError,
  'unknown-outcome': operation.UnknownOutcomeError,
  cancelled: operation.CancelledError,
  'no-common-trusted-zone': operation.NoCommonTrustedZoneError,
  'encryption-unavailable': operation.EncryptionUnavailableError,
  'different-networks': operation.DifferentNetworksError,
  'sealing-unavailable': operation.SealingUnavailableError,
  'no-candidate': operation.NoCandidateError,
  'permission-denied': operation.PermissionDeniedError,
  unauthenticated: operation.UnauthenticatedError,
  'certificate-refused': identity.CertificateRefusedError,
  'statement-refused': identity.StatementRefusedError,
  'token-refused': identity.TokenRefusedError,
  'host-revoked': identity.HostRevokedError,
  'tenant-locked': identity.TenantLockedError,
  'not-enrolled': identity.NotEnrolledError,
  'clock-wrong': identity.ClockWrongError,
  'nats-too-old': operation.NatsTooOldError,
  'port-in-use': operation.PortInUseError,
  'needs-root': operation.NeedsRootError,
  'kernel-feature-missing': operation.KernelFeatureMissingError,
  'tool-missing': operation.ToolMissingError,
  unimplemented: operation.UnimplementedError,
  internal: operation.InternalError,
}

/** An error as it goes on the wire. What is not a `WeftError` goes as `internal`, without its text: that may hold secrets. */
export function toWire(error: unknown): ErrorInfo {
  const known = asWeftError(error)
  return {
    code: known.code,
    message: known.message,
    facts: { ...known.facts },
    remedy: known.remedy,
  }
}

/** The error that `toWire` wrote, of the same class. A code that this version does not know becomes `internal`, with the text kept. */
export function fromWire(info: ErrorInfo): WeftError {
  const code = isErrorCode(info.code) ? info.code : 'internal'
  const error = new WeftError(code, info.message, info.facts, info.remedy)
  // The subclasses only write messages, so the prototype is all that is missing for `instanceof`.
  return Object.setPrototypeOf(error, classes[code].prototype) as WeftError
}

/** The error itself if it is a `WeftError`, else an `InternalError` with it as the cause. */
export function asWeftError(error: unknown): WeftError {
  if (error instanceof WeftError) return error
  return new operation.InternalError('something went wrong that should not', { cause: error })
}

export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(classes, code)
}
