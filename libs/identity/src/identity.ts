/** Every service that has an identity. */
export const serviceNames = ['config', 'location-resolver', 'routing-policy', 'nats'] as const
export type ServiceName = (typeof serviceNames)[number]

/**
 * Who somebody is in a domain, written `spiffe://<domain>/<kind>/<id>` (SPIFFE-ID) as the only URI in the subject
 * alternative name of a certificate. The id of a host or user is that of its record, of a service its name.
 */
export type Identity =
  | { readonly domain: string; readonly kind: 'host'; readonly id: number }
  | { readonly domain: string; readonly kind: 'user'; readonly id: number }
  | { readonly domain: string; readonly kind: 'service'; readonly id: ServiceName }

/** The URI of an identity. */
export function formatIdentity({ domain, kind, id }: Identity): string {
  return `spiffe://${domain}/${kind}/${id}`
}

/** Parses what `formatIdentity` writes, and nothing else; undefined for any other text. */
export function parseIdentity(uri: string): Identity | undefined {
  const match =
    /^spiffe:\/\/([a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?)\/(host|service|user)\/([a-z0-9-]{1,32})$/.exec(
      uri,
    )
  const [, domain = '', kind, id = ''] = match ?? []
  if (kind === 'service') {
    const name = serviceNames.find((candidate) => candidate === id)
    return name && { domain, kind, id: name }
  }
  if (kind !== 'host' && kind !== 'user') return undefined
  const number = Number(id)
  if (!/^[1-9][0-9]{0,9}$/.test(id) || number > 0xffff_ffff) return undefined
  return { domain, kind, id: number }
}
