import type { KeyObject } from 'node:crypto'
import { LeaseRenewal, LocationReport } from '@weft/proto/weftline/location/v1/location.ts'
import { ConnectionReport } from '@weft/proto/weftline/status/v1/status.ts'
import { type Purpose, signStatement, verifyStatement } from './signed.ts'

/** A message in which a host speaks for itself. A subject proves no sender, so the message does. */
interface HostMessage {
  /** Ed25519, 64 bytes, over the encoding of the message while this field is empty. */
  readonly hostSignature: Buffer
}

interface Encoder<T> {
  encode(message: T): { finish(): Uint8Array }
}

const UNSIGNED: Buffer = Buffer.alloc(0)

/** The report with the signature of the host's identity key (purpose `location-report`). */
export function signReport(report: LocationReport, key: KeyObject): LocationReport {
  return signed('location-report', LocationReport, report, key)
}

/** @throws StatementRefusedError: the holder of `identityKey` (32 bytes) did not sign exactly this report. */
export function verifyReport(report: LocationReport, identityKey: Uint8Array): void {
  verify('location-report', LocationReport, report, identityKey)
}

/** The renewal with the signature of the host's identity key (purpose `lease-renewal`). */
export function signRenewal(renewal: LeaseRenewal, key: KeyObject): LeaseRenewal {
  return signed('lease-renewal', LeaseRenewal, renewal, key)
}

/** @throws StatementRefusedError: the holder of `identityKey` (32 bytes) did not sign exactly this renewal. */
export function verifyRenewal(renewal: LeaseRenewal, identityKey: Uint8Array): void {
  verify('lease-renewal', LeaseRenewal, renewal, identityKey)
}

/** The report with the signature of the host's identity key (purpose `connection-report`). */
export function signConnections(report: ConnectionReport, key: KeyObject): ConnectionReport {
  return signed('connection-report', ConnectionReport, report, key)
}

/** @throws StatementRefusedError: the holder of `identityKey` (32 bytes) did not sign exactly this report. */
export function verifyConnections(report: ConnectionReport, identityKey: Uint8Array): void {
  verify('connection-report', ConnectionReport, report, identityKey)
}

function signed<T extends HostMessage>(
  purpose: Purpose,
  encoder: Encoder<T>,
  message: T,
  key: KeyObject,
): T {
  const { signature } = signStatement(purpose, bytesOf(encoder, message), key)
  return { ...message, hostSignature: signature }
}

function verify<T extends HostMessage>(
  purpose: Purpose,
  encoder: Encoder<T>,
  message: T,
  identityKey: Uint8Array,
): void {
  const { hostSignature } = message
  const statement = {
    // Fields that this version does not know are encoded again as they came, behind those that it knows.
    payload: Buffer.from(bytesOf(encoder, message)),
    signerKey: Buffer.from(identityKey),
    signature: hostSignature,
  }
  verifyStatement(purpose, hostSignature.length === 0 ? undefined : statement)
}

function bytesOf<T extends HostMessage>(encoder: Encoder<T>, message: T): Uint8Array {
  return encoder.encode({ ...message, hostSignature: UNSIGNED }).finish()
}
