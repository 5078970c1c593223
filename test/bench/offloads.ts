import { setTimeout as sleep } from 'node:timers/promises'
import type { Place } from '../support/place.ts'

/** Time for a shuttle to notice that a device has changed and to choose anew. */
const SETTLE_MS = 5000
/** What a device of the underlay may leave whole on its way out: packets in tunnels, rows of datagrams, TCP. */
const SENDING = ['tx-udp_tnl-segmentation', 'tx-udp-segmentation', 'tso', 'gso'] as const
const UNDERLAY_DEVICE = 'under0'

/** An end of a wire. */
export interface WireEnd {
  readonly place: Place
  /** `under0` by default. */
  readonly device?: string
}

/**
 * Makes wires cut everything to the size of a packet before it leaves, as a card without offloads does, until the end of the block.
 * Receive GRO collects what the sender had to cut; veth devices have it off by default.
 */
export async function cutToSize(ends: readonly WireEnd[]): Promise<AsyncDisposable> {
  await using undo = new AsyncDisposableStack()
  for (const end of ends) {
    undo.defer(() => setOffloads(end, 'on'))
    await setOffloads(end, 'off')
  }
  await sleep(SETTLE_MS)
  return undo.move()
}

async function setOffloads({ place, device }: WireEnd, state: 'on' | 'off'): Promise<void> {
  const features: string[] = SENDING.flatMap((feature) => [feature, state])
  features.push('gro', state === 'off' ? 'on' : 'off')
  await place.mustRun(['ethtool', '-K', device ?? UNDERLAY_DEVICE, ...features])
}
