import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StatementRefusedError } from '@weft/errors'
import {
  LeaseRenewal,
  LocationChange,
  LocationReport,
} from '@weft/proto/weftline/location/v1/location.ts'
import { ConnectionReport } from '@weft/proto/weftline/status/v1/status.ts'
import {
  signConnections,
  signRenewal,
  signReport,
  verifyConnections,
  verifyRenewal,
  verifyReport,
} from './host-signature.ts'
import { generateIdentityKey, publicKeyOf } from './keys.ts'
import { signStatement } from './signed.ts'

const alpha = generateIdentityKey()
const beta = generateIdentityKey()
const report = LocationReport.create({
  change: LocationChange.LOCATION_CHANGE_ATTACHED,
  endpointId: 11,
  networkId: 5,
  addresses: [Buffer.from([10, 20, 0, 11])],
  hostId: 1,
  leaseId: 'lease',
  observedAtUnixMs: 1_000n,
  sequence: 7n,
  configRevision: 9n,
})
const renewal = LeaseRenewal.create({
  hostId: 1,
  leaseId: 'lease',
  leaseTtlMs: 15_000,
  sentAtUnixMs: 1n,
})

test('what a host signed is verified by its key, also after its way over the bus', () => {
  const sent = LocationReport.decode(LocationReport.encode(signReport(report, alpha)).finish())

  verifyReport(sent, publicKeyOf(alpha))
  verifyRenewal(signRenewal(renewal, alpha), publicKeyOf(alpha))
})

test('a report of another key, without a signature, or altered in any field is refused', () => {
  const signed = signReport(report, alpha)
  const key = publicKeyOf(alpha)
  const forged: readonly (readonly [LocationReport, string])[] = [
    [report, 'missing'],
    [signReport(report, beta), 'bad-signature'],
    [{ ...signed, hostSignature: signed.hostSignature.subarray(1) }, 'wrong-size'],
    ...(
      [
        { change: LocationChange.LOCATION_CHANGE_DETACHED },
        { endpointId: 12 },
        { networkId: 6 },
        { addresses: [] },
        { hostId: 2 },
        { leaseId: 'other' },
        { observedAtUnixMs: 2_000n },
        { sequence: 8n },
        { configRevision: 0n },
        { _unknownFields: { 802: [Uint8Array.of(1, 7)] } },
      ] as const
    ).map((change) => [{ ...signed, ...change } as LocationReport, 'bad-signature'] as const),
  ]

  for (const [message, reason] of forged) {
    assert.throws(
      () => verifyReport(message, key),
      (error) => error instanceof StatementRefusedError && error.reason === reason,
    )
  }
})

test('what a host says of its connections is refused from another key, and altered', () => {
  const said = ConnectionReport.create({ hostId: 1, sentAtUnixMs: 5n, goneHostIds: [2] })
  const signed = signConnections(said, alpha)
  const key = publicKeyOf(alpha)
  verifyConnections(signed, key)

  const observed = [{ address: Buffer.of(192, 0, 2, 66), port: 61_820, kind: 3 } as const]
  const forged: readonly ConnectionReport[] = [
    said,
    signConnections(said, beta),
    { ...signed, hostId: 2 },
    { ...signed, sentAtUnixMs: 6n },
    { ...signed, goneHostIds: [] },
    { ...signed, observed },
  ]
  for (const report of forged) {
    assert.throws(() => verifyConnections(report, key), StatementRefusedError)
  }
})

test('a signature for one purpose never passes for another', () => {
  const payload = LeaseRenewal.encode(renewal).finish()
  const { signature } = signStatement('location-report', payload, alpha)

  assert.throws(
    () => verifyRenewal({ ...renewal, hostSignature: signature }, publicKeyOf(alpha)),
    StatementRefusedError,
  )
})
