import type { Candidate } from '@weft/net'
import { natOf, type Seen } from './nat.ts'
import type { Self } from './rows.ts'

/**
 * Where strangers reach this host, best first: what an operator has said, then its own addresses. None of the latter where it
 * is seen to be behind a NAT, and never those at which others see it: a NAT lets in only whom the host has sent to.
 */
export function candidatesForClients(
  { addresses, sealedPort, configured }: Pick<Self, 'addresses' | 'sealedPort' | 'configured'>,
  seen: readonly Seen[],
): Candidate[] {
  const own = addresses.map(({ address }) => address)
  const isBehindNat = natOf([...own, ...configured.map(({ address }) => address)], seen) !== 'none'
  if (isBehindNat) return [...configured]
  return [
    ...configured,
    ...own.map((address) => ({ address, port: sealedPort, kind: 'own' }) as const),
  ]
}
