import type { Places as PlacesMessage } from '@weft/proto/weftline/identity/v1/identity.ts'
import type { Places } from './domain-file.ts'

export const NOWHERE: Places = {
  config: [],
  enrolment: [],
  locationResolver: [],
  routingPolicy: [],
  bus: [],
}

export function placesMessage(places: Places): PlacesMessage {
  return {
    config: [...places.config],
    enrolment: [...places.enrolment],
    locationResolver: [...places.locationResolver],
    routingPolicy: [...places.routingPolicy],
    bus: [...places.bus],
  }
}

/** The replicas at a place in random order, so that members spread over them. */
export function shuffled(addresses: readonly string[]): string[] {
  return addresses
    .map((address) => ({ address, rank: Math.random() }))
    .sort((a, b) => a.rank - b.rank)
    .map(({ address }) => address)
}
