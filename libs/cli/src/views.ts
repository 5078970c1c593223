import {
  formatIpAddress,
  formatMacAddress,
  formatPrefix,
  type IpAddress,
  type Prefix,
} from '@weft/net'
import type { Endpoint, Labels, OpenConnection, SocketAddress, Stored } from '@weft/sdk'
import { type Column, formatDuration, sentenceView, type View } from './output.ts'

export function labelText(labels: Labels): string {
  return Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(' ')
}

export function addressText(addresses: readonly IpAddress[]): string {
  return addresses.map(formatIpAddress).join(', ')
}

export function prefixText(prefixes: readonly Prefix[]): string {
  return prefixes.map(formatPrefix).join(', ')
}

/** The fields that every stored object has. */
export function storedFields(stored: Stored): [string, string][] {
  return [
    ['name', stored.name],
    ['id', String(stored.id)],
    ['labels', labelText(stored.labels)],
    ['revision', String(stored.revision)],
    [
      'created',
      `${stored.createdAt.toISOString()} (${formatDuration(Date.now() - stored.createdAt.getTime())} ago)`,
    ],
  ]
}

/** `192.0.2.1:61820` or `[2001:db8::1]:61820`. */
export function socketText({ address, port }: SocketAddress): string {
  const text = formatIpAddress(address)
  return address.family === 6 ? `[${text}]:${port}` : `${text}:${port}`
}

/** How an open connection is, and why if it is not. */
export function openText({ state, reason }: OpenConnection): string {
  return reason === '' ? state : `${state} (${reason})`
}

/** Why two hosts do not meet, in words; undefined where they do. */
export function whyApart({ state, reason }: OpenConnection): string | undefined {
  if (state !== 'unreachable') return undefined
  return `unreachable directly (${reason}): ${UNREACHABLE_WORDS[reason] ?? 'no reason is known'}`
}

const UNREACHABLE_WORDS: { readonly [reason: string]: string } = {
  'no-answer':
    'nobody answers at any of its addresses; is it up, and does a firewall let UDP pass to its port?',
  'no-candidate':
    'no address of it is known; name one: weft host set HOST --candidate ADDRESS:PORT',
  'symmetric-nat':
    'both hosts are behind NATs, of which at least one gives every peer another port; a relay will be the way out, and there are none yet. Forward a UDP port to one of the hosts: weft host set HOST --candidate ADDRESS:PORT',
}

/** Millionths, as a percentage. */
export function rateText(ppm: number | undefined): string {
  return ppm === undefined ? '-' : `${(ppm / 10_000).toFixed(ppm < 10_000 && ppm > 0 ? 2 : 0)} %`
}

/** Bytes for people: the largest unit that leaves a number of at least 1. */
export function byteText(bytes: bigint): string {
  let value = Number(bytes)
  let unit = 'B'
  for (const next of ['KiB', 'MiB', 'GiB', 'TiB']) {
    if (value < 1024) break
    value /= 1024
    unit = next
  }
  return unit === 'B' ? `${value} B` : `${value.toFixed(1)} ${unit}`
}

/** Removing what is not there is no error: the wish is fulfilled. */
export function removedView(kind: string, name: string, deleted: boolean): View {
  return sentenceView(
    { deleted },
    deleted ? `${kind} ${name} removed` : `there was no ${kind} ${name}`,
  )
}

export const ENDPOINT_COLUMNS: readonly Column<Endpoint>[] = [
  { title: 'NETWORK', value: (row) => row.network },
  { title: 'NAME', value: (row) => row.name },
  { title: 'ADDRESSES', value: (row) => addressText(row.addresses) },
  { title: 'MAC', value: (row) => formatMacAddress(row.mac) },
  { title: 'HOST', value: (row) => row.host ?? '-' },
  { title: 'LABELS', value: (row) => labelText(row.labels) },
]
