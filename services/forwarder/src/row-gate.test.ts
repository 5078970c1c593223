import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { hostRowKey } from '@weft/bus'
import { generateIdentityKey, publicKeyOf, signStatement } from '@weft/identity'
import { Network } from '@weft/proto/weftline/config/v1/records.ts'
import { HostRow, SignedHostRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import fc from 'fast-check'
import { type Admission, RowGate, untrustedRows } from './row-gate.ts'

const HOST_ID = 1
const PEER_ID = 2
const directoryKey = generateIdentityKey()
const gate = new RowGate(HOST_ID, () => publicKeyOf(directoryKey), 'test.weft')
const ownKey = hostRowKey(HOST_ID, 'endpoint', 13)

describe('the gate for rows', () => {
  test('a row that the directory signed for this host comes in, with what it holds until', () => {
    const admission = gate.admit(signed(endpointRow()), ownKey)

    assert(admission.kind === 'row')
    assert.equal(admission.change.row.kind, 'endpoint')
    assert.deepEqual(admission.change.revisions, { config: 7n, location: 8n })
    assert.equal(admission.change.notAfterMs, 9_000)
  })

  test('what it lets in is proved by what is kept of it', () => {
    const admission = gate.admit(signed(endpointRow()), ownKey)
    assert(admission.kind === 'row')

    const again = gate.admit(untrustedRows.decode(admission.change.proof))

    assert.deepEqual(again, admission)
  })

  const { row: good } = signed(endpointRow())
  const refusals: Readonly<Record<string, readonly [SignedHostRow, string, string?]>> = {
    'without a signature': [{ row: undefined }, 'missing'],
    'with an empty signature': [
      { row: Signed.create({ ...good, signature: Buffer.alloc(0) }) },
      'wrong-size',
    ],
    'signed by another key': [signed(endpointRow(), generateIdentityKey()), 'other-signer'],
    'signed by another key that is given out as that of the directory': [
      withSigner(signed(endpointRow(), generateIdentityKey())),
      'bad-signature',
    ],
    'signed for another purpose': [
      signed(endpointRow(), directoryKey, 'revocations'),
      'bad-signature',
    ],
    'that was changed afterwards': [
      { row: Signed.create({ ...good, payload: encoded(endpointRow({ epoch: 99n })) }) },
      'bad-signature',
    ],
    'of another host': [signed({ ...endpointRow(), hostId: PEER_ID }), 'other-host'],
    'under the key of another row': [
      signed(endpointRow()),
      'other-row',
      hostRowKey(HOST_ID, 'endpoint', 14),
    ],
    'under the key of another kind': [
      signed(endpointRow()),
      'other-row',
      hostRowKey(HOST_ID, 'peer', 13),
    ],
    "of another host under that host's key": [
      signed({ ...endpointRow(), hostId: PEER_ID }),
      'other-host',
      hostRowKey(PEER_ID, 'endpoint', 13),
    ],
    'that holds no message': [
      { row: signStatement('host-row', Buffer.from([0xff, 0xff]), directoryKey) },
      'malformed',
    ],
    'with an address that is none': [
      signed(endpointRow({ addresses: [Buffer.alloc(5)] })),
      'malformed',
    ],
    'with the MAC of a group': [
      signed(endpointRow({ mac: Buffer.from([1, 0, 0, 0, 0, 1]) })),
      'unusable',
    ],
    'with an address of a group': [
      signed(endpointRow({ addresses: [Buffer.from([224, 0, 0, 1])] })),
      'unusable',
    ],
    'of a network without a VNI': [
      signed({ ...endpointRow(), row: networkRow({ vni: 0 }) }),
      'unusable',
      hostRowKey(HOST_ID, 'network', 5),
    ],
    'of a network with an MTU that is none': [
      signed({ ...endpointRow(), row: networkRow({ mtuBytes: 100 }) }),
      'unusable',
      hostRowKey(HOST_ID, 'network', 5),
    ],
  }
  for (const [what, [message, reason, key = ownKey]] of Object.entries(refusals)) {
    test(`a row ${what} is refused as ${reason}`, () => {
      assert.deepEqual(gate.admit(message, key), { kind: 'refused', reason })
    })
  }

  test('a row of a kind that nobody knows yet is no row, and no refusal', () => {
    assert.deepEqual(gate.admit(signed({ ...endpointRow(), row: undefined }), ownKey), {
      kind: 'unknown',
    })
  })

  test('another directory key counts from the moment at which it is there', () => {
    const other = generateIdentityKey()
    let key = directoryKey
    const changing = new RowGate(HOST_ID, () => publicKeyOf(key), 'test.weft')

    key = other

    assert.equal(changing.admit(signed(endpointRow()), ownKey).kind, 'refused')
    assert.equal(changing.admit(signed(endpointRow(), other), ownKey).kind, 'row')
  })

  test('whatever bytes lie in the bucket, they are refused and nothing is thrown', () => {
    const good = SignedHostRow.encode(signed(endpointRow())).finish()
    const index = fc.integer({ min: 0, max: good.length - 1 })
    fc.assert(
      fc.property(index, fc.integer({ min: 1, max: 255 }), fc.boolean(), (at, mask, isCut) => {
        const bytes = isCut ? good.slice(0, at) : Uint8Array.from(good)
        if (!isCut) bytes[at] = (bytes[at] ?? 0) ^ mask
        assertNoOther(gate.admit(untrustedRows.decode(bytes), ownKey))
      }),
    )
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        assert.equal(gate.admit(untrustedRows.decode(bytes), ownKey).kind, 'refused')
      }),
    )
  })
})

/** A changed byte may lie in a field that nobody reads: then the row is what it was. */
function assertNoOther(admission: Admission): void {
  if (admission.kind === 'refused') return
  const good = gate.admit(signed(endpointRow()), ownKey)
  assert(admission.kind === 'row' && good.kind === 'row')
  const { proof: _proof, ...change } = admission.change
  const { proof: _goodProof, ...expected } = good.change
  assert.deepEqual(change, expected)
}

function endpointRow(
  some: Partial<Extract<NonNullable<HostRow['row']>, { $case: 'endpoint' }>['value']> = {},
): HostRow {
  return HostRow.create({
    hostId: HOST_ID,
    configRevision: 7n,
    locationRevision: 8n,
    notAfterUnixMs: 9_000n,
    row: {
      $case: 'endpoint',
      value: {
        endpointId: 13,
        networkId: 5,
        name: 'api',
        mac: Buffer.from([2, 0, 0, 0, 0, 13]),
        addresses: [Buffer.from([10, 20, 0, 13])],
        allowedPrefixes: [],
        locationHostId: PEER_ID,
        epoch: 1n,
        placement: undefined,
        ...some,
      },
    },
  })
}

function networkRow(some: Partial<Network>): NonNullable<HostRow['row']> {
  const network = Network.create({ id: 5, name: 'blue', vni: 77, mtuBytes: 1320, ...some })
  return { $case: 'network', value: { network, tenantName: 'acme' } }
}

function signed(
  row: HostRow,
  key = directoryKey,
  purpose: 'host-row' | 'revocations' = 'host-row',
): SignedHostRow {
  return { row: signStatement(purpose, encoded(row), key) }
}

function withSigner({ row }: SignedHostRow): SignedHostRow {
  return { row: Signed.create({ ...row, signerKey: publicKeyOf(directoryKey) }) }
}

function encoded(row: HostRow): Buffer {
  return Buffer.from(HostRow.encode(row).finish())
}
