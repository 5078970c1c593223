import { isIP } from 'node:net'
import type { Lab } from '@weft/lab'
import { weft } from '../e2e/support/cli.ts'
import { Place } from '../support/place.ts'
import { placeOf } from './context.ts'
import type { Pair } from './measure.ts'
import { wireguardGoClient } from './tunnels.ts'

const NETWORK = 'blue'
const ENDPOINT = 'stock'
/** The container at the host that the client talks to. */
const SERVER = { name: 'blue/web', address: '10.20.0.11' }
/** Many packets, by whose end both sides know the path. */
const SETTLE = ['-i', '0.02', '-c', '50', '-w', '10', '-q'] as const

export interface StockClient extends AsyncDisposable {
  readonly pair: Pair
  readonly about: string
}

/**
 * A client of the WireGuard protocol that talks to a container: wireguard-go on the wire of the lab, in the namespace of the second
 * host, and a port of the first. What it sends is sealed once, as between two machines of wireguard-go, and our side is the shuttle.
 */
export async function stockClient(lab: Lab): Promise<StockClient> {
  const [host, other] = lab.weftHosts
  if (host === undefined || other === undefined) throw new Error('the lab has one host only')
  await using made = new AsyncDisposableStack()
  const ref = { tenant: lab.plan.tenant, network: NETWORK, endpoint: ENDPOINT }
  await lab.client.endpoints.create(ref)
  made.defer(async () => {
    await lab.client.endpoints.delete(ref)
  })
  const file = await attach(lab, host.name)
  made.defer(async () => {
    await lab.client.host(host.name).detach(ref)
  })
  const place = new Place(other.namespace)
  const client = made.use(
    await wireguardGoClient(place, {
      secret: hexOf(settingOf(file, 'PrivateKey')),
      peerKey: hexOf(settingOf(file, 'PublicKey')),
      endpoint: settingOf(file, 'Endpoint'),
      address: ipv4Of(settingOf(file, 'Address')),
      mtu: Number(settingOf(file, 'MTU')),
      target: `${SERVER.address}/32`,
    }),
  )
  await place.mustRun(['ping', ...SETTLE, SERVER.address])
  const owned = made.move()
  return {
    pair: { client: place, server: placeOf(lab, SERVER.name), address: SERVER.address },
    about: client.about,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

/** Makes the endpoint a client's, as an operator does; returns the file for it. */
async function attach(lab: Lab, host: string): Promise<string> {
  const { code, stdout, stderr } = await weft(lab, [
    ...['endpoint', 'attach', `${NETWORK}/${ENDPOINT}`, '--tenant', lab.plan.tenant],
    ...['--host', host, '--wireguard'],
  ])
  if (code !== 0) throw new Error(stderr.trim())
  return stdout
}

function settingOf(file: string, name: string): string {
  const value = new RegExp(`^${name} = (.+)$`, 'm').exec(file)?.[1]
  if (value === undefined) throw new Error(`the client's file has no ${name}`)
  return value
}

/** Of a row of addresses in CIDR notation. */
function ipv4Of(row: string): string {
  const found = row.split(', ').find((cidr) => isIP(cidr.split('/')[0] ?? '') === 4)
  if (found === undefined) throw new Error('the client has no IPv4 address')
  return found
}

function hexOf(base64: string): string {
  return Buffer.from(base64, 'base64').toString('hex')
}
