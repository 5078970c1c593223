import { Place } from '../support/place.ts'
import { comparePackets, compareRtt, compareTcp } from './compare.ts'
import { type BenchContext, directPair } from './context.ts'
import { kernelVxlan } from './peers.ts'
import { judge, type Result } from './result.ts'

const PEER = 'vxlan+bridge'
/** Time for the shuttle to notice that a device has changed and to choose anew. */
const SETTLE_MS = 5000

/** Two containers of two hosts on one wire, against the kernel's VXLAN device with a bridge. */
export async function direct({ lab, runs, prefix }: BenchContext): Promise<Result[]> {
  await using peer = await kernelVxlan(`${prefix}-vx`)
  const contenders = { ours: directPair(lab), [PEER]: peer.pair }
  const atLeast = (value: number) => ({ kind: 'at-least', value, versus: PEER }) as const
  return [
    judge(await compareTcp('direct', contenders, 1, runs), atLeast(1.2)),
    judge(await compareTcp('direct', contenders, 4, runs), atLeast(1.4)),
    ...(await compareRtt('direct', contenders, runs)).map((one) =>
      judge(one, { kind: 'at-most', value: 0.55, versus: PEER }),
    ),
    judge(await comparePackets('direct', contenders, runs), atLeast(1.8)),
  ]
}

/** The same on a wire whose devices cut packets to size themselves and cannot do so inside a tunnel. */
export async function directWithoutOffloads(context: BenchContext): Promise<Result[]> {
  const { lab, runs, prefix } = context
  await using peer = await kernelVxlan(`${prefix}-vx`)
  const ownHosts = lab.weftHosts.map((host) => new Place(host.namespace))
  const name = 'direct, no tunnel offloads'
  const contenders = { ours: directPair(lab), [PEER]: peer.pair }
  await setOffloads([...ownHosts, ...peer.hosts], 'off')
  try {
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS))
    const atLeast = { kind: 'at-least', value: 1.1, versus: PEER } as const
    return [
      judge(await compareTcp(name, contenders, 1, runs), atLeast),
      judge(await compareTcp(name, contenders, 4, runs), atLeast),
    ]
  } finally {
    await setOffloads(ownHosts, 'on')
  }
}

async function setOffloads(hosts: readonly Place[], state: 'on' | 'off'): Promise<void> {
  const features = ['tx-udp_tnl-segmentation', 'tso', 'gso'].flatMap((feature) => [feature, state])
  // Receive GRO collects what the sender had to cut; veth devices have it off by default.
  features.push('gro', state === 'off' ? 'on' : 'off')
  for (const host of hosts) await host.mustRun(['ethtool', '-K', 'under0', ...features])
}
