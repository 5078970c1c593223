import { EndpointExistsError } from '@weft/errors'
import type { CreateEndpoint, Weft } from '@weft/sdk'

/** An endpoint that is there already is taken as it is, if nothing else was asked of it. Returns whether it is new. */
export async function createUnlessThere(weft: Weft, wanted: CreateEndpoint): Promise<boolean> {
  const { mac, addresses = [], allow = [] } = wanted
  try {
    await weft.endpoints.create(wanted)
    return true
  } catch (error) {
    const asksMore = mac !== undefined || addresses.length > 0 || allow.length > 0
    if (!(error instanceof EndpointExistsError) || asksMore) throw error
    return false
  }
}
