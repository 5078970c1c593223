import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { generateIdentityKey, generateTunnelKey, publicKeyOf, signTunnelKey } from '@weft/identity'
import { CARRIER_SEALED } from '@weft/net'
import { CandidateKind } from '@weft/proto/weftline/common/v1/common.ts'
import { HostKind } from '@weft/proto/weftline/config/v1/records.ts'
import { PeerRow } from '@weft/proto/weftline/config/v1/rows.ts'
import { sealingFrom } from './tunnel-keys.ts'

const identity = generateIdentityKey()
const tunnel = generateTunnelKey()
const former = generateTunnelKey()
const evilIdentity = generateIdentityKey()
const evilTunnel = generateTunnelKey()

describe('the tunnel key of a peer', () => {
  test('counts by the word of the host itself, with where it may be', () => {
    const sealing = sealingFrom(row())

    assert.equal(sealing?.tunnelKey, publicKeyOf(tunnel).toString('hex'))
    assert.equal(sealing?.previous, undefined)
    assert.deepEqual(
      sealing?.candidates.map(({ port, kind }) => [port, kind]),
      [
        [61_820, 'own'],
        [4_000, 'observed'],
      ],
    )
  })

  test('comes with the one before if the host says so', () => {
    const tunnelStatement = signTunnelKey(tunnel, identity, {
      tunnelKey: former,
      untilUnixMs: 9_000,
    })

    assert.deepEqual(sealingFrom(row({ tunnelStatement }))?.previous, {
      tunnelKey: publicKeyOf(former).toString('hex'),
      untilMs: 9_000,
    })
  })

  // Whoever holds the directory's key writes rows as they like.
  const lies: Readonly<Record<string, Partial<PeerRow>>> = {
    'that nobody signed': { tunnelStatement: undefined },
    'of somebody else, with the statement of the host': { tunnelKey: publicKeyOf(evilTunnel) },
    'of somebody else, signed by somebody else': {
      tunnelKey: publicKeyOf(evilTunnel),
      tunnelStatement: signTunnelKey(evilTunnel, evilIdentity),
    },
    'of somebody else, with a signature that is given out as the host’s': {
      tunnelKey: publicKeyOf(evilTunnel),
      tunnelStatement: {
        ...signTunnelKey(evilTunnel, evilIdentity),
        signerKey: publicKeyOf(identity),
      },
    },
    'of a host without an identity': { identityKey: Buffer.alloc(0) },
    'of a machine that others manage': { kind: HostKind.HOST_KIND_VXLAN_PEER },
    'of a host whose data plane does not seal': { capabilities: ['carrier-vxlan'] },
  }
  for (const [what, change] of Object.entries(lies)) {
    test(`does not count as one ${what}`, () => {
      assert.equal(sealingFrom(row(change)), undefined)
    })
  }

  test('is looked for at no place where nothing can be', () => {
    const kind = CandidateKind.CANDIDATE_KIND_OBSERVED
    const candidates = [
      { address: Buffer.alloc(5), port: 1, kind },
      { address: Buffer.of(224, 0, 0, 1), port: 1, kind },
      { address: Buffer.of(192, 0, 2, 9), port: 0, kind },
      { address: Buffer.of(192, 0, 2, 9), port: 70_000, kind },
    ]

    assert.deepEqual(sealingFrom(row({ candidates }))?.candidates, [])
  })

  test('is looked for at 16 places at most', () => {
    const candidates = Array.from({ length: 40 }, (_, index) => ({
      address: Buffer.of(192, 0, 2, index + 1),
      port: 61_820,
      kind: CandidateKind.CANDIDATE_KIND_OWN,
    }))

    assert.equal(sealingFrom(row({ candidates }))?.candidates.length, 16)
  })
})

function row(change: Partial<PeerRow> = {}): PeerRow {
  return PeerRow.create({
    hostId: 2,
    name: 'beta',
    kind: HostKind.HOST_KIND_WEFT,
    identityKey: publicKeyOf(identity),
    tunnelKey: publicKeyOf(tunnel),
    tunnelStatement: signTunnelKey(tunnel, identity),
    capabilities: [CARRIER_SEALED],
    candidates: [
      {
        address: Buffer.of(192, 0, 2, 2),
        port: 61_820,
        kind: CandidateKind.CANDIDATE_KIND_OWN,
      },
      {
        address: Buffer.of(198, 51, 100, 7),
        port: 4_000,
        kind: CandidateKind.CANDIDATE_KIND_OBSERVED,
      },
    ],
    ...change,
  })
}
