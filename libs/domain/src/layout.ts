/** Parts of a domain's folder, as `createDomain` makes it. Each goes to a place of its own. */
export const domainFolders = {
  /** Kept offline: who has it is the domain. */
  root: 'root',
  /** For config, which vouches with it. */
  authority: 'authority',
  /** Identity folders, one for each service. */
  services: 'services',
  /** Identity folder of the first user. */
  owner: 'owner',
  /** For nats-server. */
  nats: 'nats',
} as const

/** Files of `root/`. */
export const rootFiles = {
  key: 'root.key',
  certificate: 'root.pem',
  operatorSeed: 'operator.seed',
} as const

/** Files of `authority/`. Seeds are nkeys in text, keys PKCS#8 PEM. */
export const authorityFiles = {
  root: 'root.pem',
  intermediateKey: 'intermediate.key',
  intermediate: 'intermediate.pem',
  directoryKey: 'directory.key',
  operatorSigningSeed: 'operator-signing.seed',
  systemUserSeed: 'system-user.seed',
  systemUserJwt: 'system-user.jwt',
  hostsAdminSeed: 'hosts-admin.seed',
  hostsAdminJwt: 'hosts-admin.jwt',
  /** JSON, see `DomainFile`. */
  domain: 'domain.json',
} as const

/** In `authority/`: the seed of each account of the bus whose users config issues. */
export const accountSeedFiles = {
  control: 'account-control.seed',
  location: 'account-location.seed',
  routing: 'account-routing.seed',
  hosts: 'account-hosts.seed',
} as const

/** Files of an identity folder. */
export const identityFiles = {
  /** Ed25519, PKCS#8 PEM: the key of the certificates, and of statements. */
  identityKey: 'identity.key',
  /** X25519, PKCS#8 PEM; hosts only. */
  tunnelKey: 'tunnel.key',
  /** nkey seed in text; not for users. */
  busSeed: 'bus.seed',
  /** Message `weftline.identity.v1.Credentials`. */
  credentials: 'credentials.binpb',
  /** Message `weftline.identity.v1.Revocations`: all keys that are void by what was heard of, with number 0. */
  voidKeys: 'void-keys.binpb',
  /** Keys of locked tenants, a line each (`formatTenantKey`): what a host was told to trust; hosts only. */
  tenantKeys: 'tenant-keys',
} as const

/**
 * Ends the names of keys that are about to replace others. Which ones are in force is said by the certificate in
 * `credentials.binpb`, so that key and certificate change together.
 */
export const NEXT_SUFFIX = '.next'

/** Files of `nats/`. */
export const natsFiles = {
  config: 'nats.conf',
  operatorJwt: 'operator.jwt',
  accounts: 'accounts',
  tls: 'tls',
  chain: 'chain.pem',
  key: 'key.pem',
  roots: 'roots.pem',
} as const

/** Where the identity of the host on this machine is by default. */
export const HOST_IDENTITY_DEFAULT = '/var/lib/weft/identity'
