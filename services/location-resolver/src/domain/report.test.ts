import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EndpointNotAssignedError, EndpointNotFoundError, InvalidArgumentError } from '@weft/errors'
import fc from 'fast-check'
import { ConfigView, type Endpoint } from './config-view.ts'
import type { Location } from './location-table.ts'
import { canJudge, decideReport, type Report } from './report.ts'

test('a first attachment locates the endpoint with epoch 1', () => {
  const record = apply(configWith({ hostId: alpha }), [report({ hostId: alpha, sequence: 7n })])

  assert.equal(record?.hostId, alpha)
  assert.equal(record?.epoch, 1n)
  assert.equal(record?.reportSequence, 7n)
  assert.deepEqual(record?.addresses, [address])
})

test('a change of host raises the epoch, a repeated attachment at the same host does not', () => {
  const atAlpha = apply(configWith({ hostId: alpha }), [
    report({ hostId: alpha, sequence: 1n }),
    report({ hostId: alpha, sequence: 2n }),
  ])
  const atBeta = apply(configWith({ hostId: beta }), [report({ hostId: beta })], atAlpha)

  assert.equal(atAlpha?.epoch, 1n)
  assert.equal(atBeta?.epoch, 2n)
})

test('a detached endpoint is nowhere, and its next attachment raises the epoch', () => {
  const config = configWith({ hostId: alpha })
  const detached = apply(config, [report({ sequence: 1n }), detach({ sequence: 2n })])
  const again = apply(config, [report({ sequence: 3n })], detached)

  assert.equal(detached?.hostId, 0)
  assert.deepEqual(detached?.addresses, [])
  assert.equal(again?.hostId, alpha)
  assert.equal(again?.epoch, 2n)
})

test('an older report that comes late changes nothing', () => {
  const config = configWith({ hostId: alpha })
  const current = apply(config, [report({ sequence: 5n })])

  assert.equal(decideReport(detach({ sequence: 4n }), config, current).kind, 'keep')
  assert.equal(decideReport(report({ sequence: 5n }), config, current).kind, 'keep')
})

test('an attachment that was overtaken by its detachment changes nothing', () => {
  const config = configWith({ hostId: alpha })

  const record = apply(config, [detach({ sequence: 2n }), report({ sequence: 1n })])

  assert.equal(record?.hostId, 0)
})

test('a host cannot detach what has moved to another one', () => {
  const config = configWith({ hostId: beta })
  const current = apply(config, [report({ hostId: beta })])

  assert.equal(decideReport(detach({ hostId: alpha, sequence: 99n }), config, current).kind, 'keep')
})

test('an endpoint that is not assigned to the host is refused', () => {
  const config = configWith({ hostId: beta })

  assert.throws(() => decideReport(report({ hostId: alpha }), config, undefined), {
    constructor: EndpointNotAssignedError,
    message: 'endpoint web is not assigned to host alpha',
  })
})

test('an endpoint that is not in the VN database is refused, and its detachment is harmless', () => {
  const config = new ConfigView()

  assert.throws(() => decideReport(report({}), config, undefined), EndpointNotFoundError)
  assert.deepEqual(decideReport(detach({}), config, undefined), { kind: 'keep' })
})

test('a report that contradicts the VN database is refused', () => {
  const config = configWith({ hostId: alpha })

  const otherNetwork = report({ networkId: blue + 1 })
  assert.throws(() => decideReport(otherNetwork, config, undefined), InvalidArgumentError)
  const otherAddress = report({ addresses: [Buffer.from([10, 20, 0, 99])] })
  assert.throws(() => decideReport(otherAddress, config, undefined), InvalidArgumentError)
})

test('the record has the last report as it came, and none once it is detached', () => {
  const config = configWith({ hostId: alpha })
  const encoded = Buffer.from('as it was signed')

  const attached = apply(config, [report({ sequence: 1n, encoded })])
  const detached = apply(config, [detach({ sequence: 2n, encoded })], attached)

  assert.deepEqual(attached?.report, encoded)
  assert.equal(detached?.report.length, 0)
})

test('a copy of the VN database that is behind the report cannot judge it', () => {
  const config = configWith({ hostId: beta })
  config.revision = 20n

  assert.equal(canJudge(report({ configRevision: 21n }), config), false)
  assert.equal(canJudge(report({ configRevision: 20n }), config), true)
  assert.equal(canJudge(report({ endpointId: 21 }), config), false)
  // Without a revision only agreement shows that the copy is new enough.
  assert.equal(canJudge(report({ hostId: alpha }), config), false)
  assert.equal(canJudge(report({ hostId: beta }), config), true)
})

test('fields that a newer replica stored are kept', () => {
  const config = configWith({ hostId: alpha })
  const unknownFields = { _unknownFields: { 800: [new Uint8Array([1])] } }
  const current = { ...apply(config, [report({ sequence: 1n })]), ...unknownFields } as Location

  const next = apply(config, [report({ sequence: 2n })], current)

  assert.deepEqual({ ...unknownFields, ...next }, next)
})

test('reports of one host lead to the same place in whatever order and how often they come', () => {
  const anyReports = fc
    .uniqueArray(fc.record({ sequence: fc.bigInt(1n, 20n), isDetach: fc.boolean() }), {
      selector: ({ sequence }) => sequence,
      minLength: 1,
      maxLength: 8,
    })
    .chain((reports) =>
      fc.record({
        reports: fc.constant(reports),
        received: fc.shuffledSubarray([...reports, ...reports], {
          minLength: reports.length * 2,
          maxLength: reports.length * 2,
        }),
      }),
    )
  fc.assert(
    fc.property(anyReports, ({ reports, received }) => {
      const last = reports.reduce((a, b) => (a.sequence > b.sequence ? a : b))

      const record = apply(
        configWith({ hostId: alpha }),
        received.map(({ sequence, isDetach }) =>
          isDetach ? detach({ sequence }) : report({ sequence }),
        ),
      )

      assert.equal(record?.hostId, last.isDetach ? 0 : alpha)
      assert.equal(record?.reportSequence, last.sequence)
    }),
  )
})

test('whatever is reported, an epoch belongs to one stay at one host', () => {
  const anyStep = fc.record({
    assignedTo: fc.constantFrom(0, alpha, beta),
    reporter: fc.constantFrom(alpha, beta),
    sequence: fc.bigInt(1n, 20n),
    isDetach: fc.boolean(),
  })
  fc.assert(
    fc.property(fc.array(anyStep, { maxLength: 30 }), (steps) => {
      let record: Location | undefined
      for (const { assignedTo, reporter, sequence, isDetach } of steps) {
        const make = isDetach ? detach : report
        const before = record
        record = applyIfAllowed(
          configWith({ hostId: assignedTo }),
          make({ hostId: reporter, sequence }),
          record,
        )
        if (record === undefined) continue
        const begins = record.hostId !== 0 && record.hostId !== before?.hostId
        assert.equal(record.epoch - (before?.epoch ?? 0n), begins ? 1n : 0n)
      }
    }),
  )
})

const alpha = 1
const beta = 2
const blue = 3
const web = 4
const address = Buffer.from([10, 20, 0, 11])

function configWith(endpoint: Partial<Endpoint>): ConfigView {
  const config = new ConfigView()
  const unremarkable = {
    isForeign: false,
    identityKey: Buffer.alloc(32),
    isRevoked: false,
    addresses: [],
    canSeal: false,
  }
  config.put({ kind: 'host', value: { id: alpha, name: 'alpha', ...unremarkable } })
  config.put({ kind: 'host', value: { id: beta, name: 'beta', ...unremarkable } })
  config.put({
    kind: 'endpoint',
    value: {
      id: web,
      name: 'web',
      networkId: blue,
      hostId: 0,
      mac: Buffer.from([2, 0, 0, 0, 0, 11]),
      addresses: [address],
      ...endpoint,
    },
  })
  config.revision = 10n
  return config
}

function report(some: Partial<Report>): Report {
  return {
    change: 'attached',
    endpointId: web,
    networkId: blue,
    addresses: [address],
    hostId: alpha,
    leaseId: 'lease',
    observedAtUnixMs: 1_000n,
    sequence: 1n,
    hostSignature: Buffer.alloc(0),
    configRevision: 0n,
    encoded: Buffer.from('report'),
    ...some,
  }
}

function detach(some: Partial<Report>): Report {
  return report({ change: 'detached', addresses: [], ...some })
}

function apply(
  config: ConfigView,
  reports: readonly Report[],
  start?: Location,
): Location | undefined {
  let record = start
  for (const some of reports) {
    const decision = decideReport(some, config, record)
    if (decision.kind === 'write') record = decision.record
  }
  return record
}

function applyIfAllowed(
  config: ConfigView,
  some: Report,
  record: Location | undefined,
): Location | undefined {
  try {
    return apply(config, [some], record)
  } catch (error) {
    if (error instanceof EndpointNotAssignedError) return record
    throw error
  }
}
