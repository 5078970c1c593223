export {
  type OpenCredentialsOptions,
  type OwnCredentials,
  openCredentials,
  type Renew,
  waitForIdentity,
} from './credentials.ts'
export {
  type DomainFile,
  formatDomainFile,
  type Places,
  parseDomainFile,
  type ServiceKeys,
} from './domain-file.ts'
export {
  checkPrivateFolder,
  makePrivateFolder,
  readPrivateFile,
  writePrivateFile,
} from './files.ts'
export {
  type Certificate,
  hasIdentity,
  type MemberKeys,
  readIdentity,
  removeIdentity,
  type StoredIdentity,
  writeCredentials,
  writeIdentity,
} from './identity-folder.ts'
export {
  accountSeedFiles,
  authorityFiles,
  domainFolders,
  HOST_IDENTITY_DEFAULT,
  identityFiles,
  natsFiles,
  rootFiles,
} from './layout.ts'
export { readTenantKeys, writeTenantKeys } from './tenant-keys.ts'
export { type KeyRefuser, refuseVoidKey } from './void-keys.ts'
