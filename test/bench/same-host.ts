import { comparePackets, compareRtt, compareTcp } from './compare.ts'
import { type BenchContext, sameHostPair } from './context.ts'
import { linuxBridge, rawVeth } from './peers.ts'
import { judge, type Result } from './result.ts'

/** Two containers of one host, against a Linux bridge and against a bare veth pair. */
export async function sameHost(context: BenchContext): Promise<Result[]> {
  const { lab, prefix } = context
  await using bridge = await linuxBridge(`${prefix}-br`)
  await using veth = await rawVeth(`${prefix}-ve`)
  const contenders = { ours: sameHostPair(lab), bridge: bridge.pair, veth: veth.pair }
  const { throughput: one } = await compareTcp('same-host', contenders, { streams: 1 }, context)
  const { throughput: four } = await compareTcp('same-host', contenders, { streams: 4 }, context)
  return [
    judge(one, { kind: 'at-least', value: 1.15, versus: 'bridge' }),
    judge(one, { kind: 'at-least', value: 0.93, versus: 'veth' }),
    judge(four, { kind: 'at-least', value: 1.15, versus: 'bridge' }),
    judge(four, { kind: 'at-least', value: 0.93, versus: 'veth' }),
    ...(await compareRtt('same-host', contenders, context)).map((one) =>
      judge(one, { kind: 'at-most', value: 0.75, versus: 'bridge' }),
    ),
    judge(await comparePackets('same-host', contenders, 64, context), {
      kind: 'at-least',
      value: 1.25,
      versus: 'bridge',
    }),
  ]
}
