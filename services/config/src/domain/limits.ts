/** Limits of the VN database. A replica holds all of it in memory: about 1.1 KiB an endpoint, so 1.1 GiB when it is full. */
export const limits = {
  tenants: 16_384,
  zones: 1_024,
  hosts: 16_384,
  networks: 65_536,
  endpoints: 1_000_000,
  endpointsPerNetwork: 65_536,
  prefixesPerNetwork: 8,
  addressesPerEndpoint: 8,
  allowedPrefixesPerEndpoint: 64,
  addressesPerHost: 16,
  capabilitiesPerHost: 64,
  wireVersionsPerHost: 16,
  labelsPerRecord: 32,
  labelKeyLength: 63,
  labelValueLength: 255,
  capabilityLength: 63,
  idempotencyKeyLength: 128,
  /** A record is one message. Its largest, a host: labels 32 x ~322, capabilities 64 x 65, addresses 16 x ~27, the rest: 15.6 KiB. */
  recordBytes: 16_384,
  /** Objects in one page of a list; 1000 of the largest records are 15.6 MiB, so pages are cut by bytes, too. */
  pageSize: 1_000,
  pageSizeDefault: 100,
  pageBytes: 1_048_576,
  /** Writes whose idempotency keys are remembered. */
  rememberedWrites: 65_536,
} as const
