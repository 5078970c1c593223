import { parseIpAddress } from '@weft/net'
import { NewPlace } from '../support/place.ts'
import { startFirstAnswer } from '../support/probe.ts'
import { type BenchContext, placeOf } from './context.ts'
import { judge, quantile, type Result } from './result.ts'

const TIMES = 200
const GIVE_UP_MS = 10_000

/** From the call of `endpoint attach` to the first ping that another host gets answered. */
export async function attach({ lab, prefix }: BenchContext): Promise<Result[]> {
  const prober = placeOf(lab, 'blue/api')
  const host = lab.client.host('alpha')
  const sinceCallMs: number[] = []
  const sinceReturnMs: number[] = []
  for (let index = 0; index < TIMES; index++) {
    await using place = await NewPlace.make(`${prefix}-at${index}`)
    const address = `10.20.100.${index + 1}`
    const parsed = parseIpAddress(address)
    if (parsed === undefined) throw new TypeError(address)
    const ref = { tenant: lab.plan.tenant, network: 'blue', endpoint: `bench-${index}` }
    await using answer = await startFirstAnswer(prober, address, GIVE_UP_MS)

    const calledAt = process.hrtime.bigint()
    await lab.client.endpoints.create({ ...ref, addresses: [parsed] })
    await host.attach(ref, { kind: 'netns', path: place.path })
    const returnedAt = process.hrtime.bigint()

    const { answered_at_ns } = await answer.end()
    if (answered_at_ns === null) throw new Error(`${address} never answered`)
    const answeredAt = BigInt(answered_at_ns)
    sinceCallMs.push(Number(answeredAt - calledAt) / 1e6)
    // It may answer before the call returns to the caller.
    sinceReturnMs.push(Math.max(0, Number(answeredAt - returnedAt) / 1e6))
    await host.detach(ref)
    await lab.client.endpoints.delete(ref)
  }
  const bench = (name: string, values: readonly number[]) => ({
    bench: `attach: ${name}, p99`,
    unit: 'ms',
    ours: quantile(values, 0.99),
    samples: TIMES,
    offered: `p50 ${quantile(values, 0.5).toFixed(1)} ms`,
  })
  return [
    judge(bench('call to first ping from another host', sinceCallMs), {
      kind: 'at-most',
      value: 300,
    }),
    judge(bench('return to first ping from another host', sinceReturnMs), {
      kind: 'at-most',
      value: 100,
    }),
  ]
}
