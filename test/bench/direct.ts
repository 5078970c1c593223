import { Place } from '../support/place.ts'
import { comparePackets, compareRtt, compareTcp } from './compare.ts'
import { type BenchContext, directPair } from './context.ts'
import { cutToSize } from './offloads.ts'
import { kernelVxlan } from './peers.ts'
import { judge, type Result } from './result.ts'

const PEER = 'vxlan+bridge'

/** Two containers of two hosts on one wire, against the kernel's VXLAN device with a bridge. */
export async function direct(context: BenchContext): Promise<Result[]> {
  const { lab, prefix } = context
  await using peer = await kernelVxlan(`${prefix}-vx`)
  const contenders = { ours: directPair(lab), [PEER]: peer.pair }
  const atLeast = (value: number) => ({ kind: 'at-least', value, versus: PEER }) as const
  const one = await compareTcp('direct', contenders, { streams: 1 }, context)
  const four = await compareTcp('direct', contenders, { streams: 4 }, context)
  return [
    judge(one.throughput, atLeast(1.2)),
    judge(four.throughput, atLeast(1.4)),
    ...(await compareRtt('direct', contenders, context)).map((one) =>
      judge(one, { kind: 'at-most', value: 0.55, versus: PEER }),
    ),
    judge(await comparePackets('direct', contenders, 64, context), atLeast(1.8)),
  ]
}

/** The same on a wire whose devices cut packets to size themselves and cannot do so inside a tunnel. */
export async function directWithoutOffloads(context: BenchContext): Promise<Result[]> {
  const { lab, prefix } = context
  await using peer = await kernelVxlan(`${prefix}-vx`)
  const ownHosts = lab.weftHosts.map((host) => new Place(host.namespace))
  const name = 'direct, no tunnel offloads'
  const contenders = { ours: directPair(lab), [PEER]: peer.pair }
  await using _ = await cutToSize([...ownHosts, ...peer.hosts].map((place) => ({ place })))
  const atLeast = { kind: 'at-least', value: 1.1, versus: PEER } as const
  const one = await compareTcp(name, contenders, { streams: 1 }, context)
  const four = await compareTcp(name, contenders, { streams: 4 }, context)
  return [judge(one.throughput, atLeast), judge(four.throughput, atLeast)]
}
