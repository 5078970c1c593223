/** Where an endpoint was observed, as far as the rows need it. */
export interface Observation {
  readonly hostId: number
  readonly epoch: bigint
  /** What its host reported, with the signature; empty if that is not known. */
  readonly report?: Buffer
}

/** The observed locations in memory, built from the messages of their bucket. */
export class Locations {
  /** Revision up to which all is known. */
  revision = 0n
  readonly #byEndpoint = new Map<number, Observation>()

  get(endpointId: number): Observation | undefined {
    return this.#byEndpoint.get(endpointId)
  }

  put(endpointId: number, observation: Observation): void {
    this.#byEndpoint.set(endpointId, observation)
  }

  delete(endpointId: number): void {
    this.#byEndpoint.delete(endpointId)
  }
}
