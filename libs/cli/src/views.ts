import {
  formatIpAddress,
  formatMacAddress,
  formatPrefix,
  type IpAddress,
  type Prefix,
} from '@weft/net'
import type { Endpoint, Labels, Stored } from '@weft/sdk'
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
