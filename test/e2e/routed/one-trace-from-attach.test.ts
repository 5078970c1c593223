import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import test from 'node:test'
import type { Lab } from '@weft/lab'
import { eventually } from '../../support/eventually.ts'
import { NewPlace } from '../../support/place.ts'
import { routedLab } from '../support/blue.ts'
import { weft } from '../support/cli.ts'
import { PREFIX } from '../support/lab.ts'

/** A line of a trace file. */
interface Span {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId?: string
  readonly name: string
}

test('one trace leads from `weft endpoint attach` through gRPC, NATS and the shuttle', async () => {
  const lab = await routedLab()
  await using place = await NewPlace.make(`${PREFIX}-traced`)
  const ref = { tenant: lab.plan.tenant, network: 'blue', endpoint: 'traced' }
  const seen = new Set([...(await spansByProcess(lab)).values()].flat().map((span) => span.traceId))
  try {
    const argv = ['endpoint', 'attach', 'blue/traced', '--host', 'alpha', '--netns', place.path]
    const { code, stderr } = await weft(lab, argv)
    assert.equal(code, 0, stderr)
    await eventually(async () => {
      const spans = await spansByProcess(lab)
      const news = (name: string): Span[] =>
        (spans.get(name) ?? []).filter((span) => !seen.has(span.traceId))
      const attach = news('shuttle@alpha').find((span) => span.name === 'shuttle attach port')
      assert.ok(attach !== undefined, 'the shuttle tells of no attachment')
      const members = [...spans].filter(([, all]) =>
        all.some((span) => span.traceId === attach.traceId),
      )
      const processes = members.map(([name]) => name)
      for (const expected of ['forwarder@alpha', 'location-resolver', 'shuttle@alpha']) {
        assert.ok(
          processes.includes(expected),
          `${expected} is not in the trace, only ${processes.join(', ')}`,
        )
      }
      assert.ok(
        processes.some((name) => name.startsWith('config')),
        'config is not in the trace',
      )
      // All but the first hang on another span of the same trace.
      const all = members.flatMap(([, list]) =>
        list.filter((span) => span.traceId === attach.traceId),
      )
      const known = new Set(all.map((span) => span.spanId))
      assert.ok(
        known.has(attach.parentSpanId ?? ''),
        'the shuttle is called by a span of another trace',
      )
    })
  } finally {
    await lab.client.host('alpha').detach(ref)
    await lab.client.endpoints.delete(ref)
  }
})

async function spansByProcess(lab: Lab): Promise<Map<string, Span[]>> {
  const entries = lab.processes().flatMap(({ name, traceFile }) => {
    if (!existsSync(traceFile)) return []
    const lines = readFileSync(traceFile, 'utf8').split('\n')
    // The last line may be half written.
    return [[name, lines.slice(0, -1).map((line) => JSON.parse(line) as Span)] as const]
  })
  return new Map(entries)
}
