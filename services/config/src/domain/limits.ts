/** Limits of the VN database. A replica holds all of it in memory: about 1.4 KiB an endpoint with what was reported of it, so 1.4 GiB when it is full. */
export const limits = {
  tenants: 16_384,
  zones: 1_024,
  hosts: 16_384,
  networks: 65_536,
  endpoints: 1_000_000,
  endpointsPerNetwork: 65_536,
  /** What one tenant may take of the two above it: its subscribers make them by themselves. */
  networksPerTenant: 1_024,
  endpointsPerTenant: 65_536,
  prefixesPerNetwork: 8,
  addressesPerEndpoint: 8,
  allowedPrefixesPerEndpoint: 64,
  addressesPerHost: 16,
  capabilitiesPerHost: 64,
  wireVersionsPerHost: 16,
  /** Tenants whose endpoints a host may carry, where they are named. */
  tenantsPerHost: 64,
  /** A fleet of hosts that all join on one day, and login codes besides. */
  tokens: 32_768,
  users: 16_384,
  grantsPerUser: 256,
  /** Keys of hosts and users that are gone or have others now: 200 bytes each, kept for 8 days and until the place is needed. */
  revokedKeys: 65_536,
  /** 8 days, longer than any certificate, bus login or row lives that was made for a key: nobody would notice the key any more. */
  voidKeyLifeMs: 691_200_000,
  /** When there are this many, hosts change no keys any more: the other half is for those who have to go. */
  revokedKeysForChanges: 32_768,
  /** Keys that a host may have given up within 8 days. */
  formerKeysPerHost: 8,
  /** What tenants have signed: 1 KiB each. A host has two in each network of a locked tenant, at every host of that network. */
  statements: 65_536,
  statementsPerTenant: 8_192,
  reasonLength: 255,
  labelsPerRecord: 32,
  labelKeyLength: 63,
  labelValueLength: 255,
  capabilityLength: 63,
  idempotencyKeyLength: 128,
  /**
   * A record is one message. Its largest, a host: labels 32 x ~322, capabilities 64 x 65, addresses 16 x ~27, tenants 64 x 5, candidates 8 x 26, the
   * statement about its tunnel key 230, the rest: 16.4 KiB.
   */
  recordBytes: 17_408,
  /** Objects in one page of a list; 1000 of the largest records are 16.6 MiB, so pages are cut by bytes, too. */
  pageSize: 1_000,
  pageSizeDefault: 100,
  pageBytes: 1_048_576,
  /** Writes whose idempotency keys are remembered. */
  rememberedWrites: 65_536,
} as const
