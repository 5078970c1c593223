/** The kernel's own ways to join two containers, built next to ours and torn down with the bench. */
import { NewPlace } from '../support/place.ts'
import type { Pair } from './measure.ts'

/** Inner MTU of everybody: the network's default. */
export const MTU = 1320
/** Addresses of the two hosts on the wire between them, and of the two ends of what joins them. */
export const UNDERLAY = ['192.0.2.1', '192.0.2.2'] as const
export const INNER = ['10.99.0.1', '10.99.0.2'] as const
/** The underlay's, as in the lab. */
const UNDERLAY_MTU = 1500
const VXLAN_PORT = 4789

export interface Peer extends AsyncDisposable {
  readonly name: string
  readonly pair: Pair
  /** Hosts whose device `under0` carries the traffic; none where it stays on one host. */
  readonly hosts: readonly NewPlace[]
}

/** Two containers joined by one veth pair: nothing can be faster. */
export async function rawVeth(prefix: string): Promise<Peer> {
  await using made = new AsyncDisposableStack()
  const [client, server] = await containers(made, prefix)
  await client.ip(
    `link add eth0 mtu ${MTU} type veth peer name eth0 mtu ${MTU} netns ${server.namespace}`,
  )
  await configure(client, server)
  return peer('veth', made, client, server, [])
}

/** Two containers on a Linux bridge of one host. */
export async function linuxBridge(prefix: string): Promise<Peer> {
  await using made = new AsyncDisposableStack()
  const [client, server] = await containers(made, prefix)
  const host = made.use(await NewPlace.make(`${prefix}-host`))
  await host.ip(`link add br0 mtu ${MTU} type bridge`, 'link set br0 up')
  await plug(host, client, 'c')
  await plug(host, server, 's')
  await configure(client, server)
  return peer('bridge', made, client, server, [])
}

/** Two containers on bridges of two hosts, which the kernel's VXLAN device joins over a veth pair. */
export async function kernelVxlan(prefix: string): Promise<Peer> {
  await using made = new AsyncDisposableStack()
  const [client, server] = await containers(made, prefix)
  const [one, two] = await twoHosts(made, prefix)
  for (const [host, own, other] of [
    [one, ...UNDERLAY],
    [two, ...UNDERLAY.toReversed()],
  ] as const) {
    await host.ip(
      `link add br0 mtu ${MTU} type bridge`,
      `link add vx0 mtu ${MTU} type vxlan id 7 local ${own} remote ${other} dstport ${VXLAN_PORT} dev under0`,
      'link set vx0 master br0',
      'link set vx0 up',
      'link set br0 up',
    )
  }
  await plug(one, client, 'c')
  await plug(two, server, 's')
  await configure(client, server)
  return peer('vxlan+bridge', made, client, server, [one, two])
}

/** Two hosts on one wire, as in the lab, whose device `under0` has an address of `UNDERLAY`. */
export async function twoHosts(
  made: AsyncDisposableStack,
  prefix: string,
): Promise<[NewPlace, NewPlace]> {
  const one = made.use(await NewPlace.make(`${prefix}-host1`))
  const two = made.use(await NewPlace.make(`${prefix}-host2`))
  await one.ip(
    `link add under0 mtu ${UNDERLAY_MTU} type veth peer name under0 mtu ${UNDERLAY_MTU} netns ${two.namespace}`,
  )
  for (const [index, host] of [one, two].entries()) {
    await host.ip(`address add ${UNDERLAY[index]}/24 dev under0`, 'link set under0 up')
  }
  return [one, two]
}

/** What the stack has made now belongs to the peer. */
export function peer(
  name: string,
  made: AsyncDisposableStack,
  client: NewPlace,
  server: NewPlace,
  hosts: readonly NewPlace[],
): Peer {
  const owned = made.move()
  return {
    name,
    pair: { client, server, address: INNER[1] },
    hosts,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

async function containers(
  made: AsyncDisposableStack,
  prefix: string,
): Promise<[NewPlace, NewPlace]> {
  const client = made.use(await NewPlace.make(`${prefix}-client`))
  const server = made.use(await NewPlace.make(`${prefix}-server`))
  return [client, server]
}

async function plug(host: NewPlace, container: NewPlace, port: string): Promise<void> {
  await host.ip(
    `link add ${port} mtu ${MTU} type veth peer name eth0 mtu ${MTU} netns ${container.namespace}`,
    `link set ${port} master br0`,
    `link set ${port} up`,
  )
}

async function configure(client: NewPlace, server: NewPlace): Promise<void> {
  await client.ip(`address add ${INNER[0]}/24 dev eth0`, 'link set eth0 up')
  await server.ip(`address add ${INNER[1]}/24 dev eth0`, 'link set eth0 up')
  await client.mustRun(['ping', '-c', '1', '-w', '5', INNER[1]])
}
