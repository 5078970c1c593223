export {
  type TestCredentials,
  type TestCredentialsOptions,
  type TestDomain,
  type TestMember,
  testDomain,
} from './domain.ts'
export { eventually } from './eventually.ts'
export { type FullListener, startFullListener } from './full-listener.ts'
export { writeIdentityFolder } from './identity-folder.ts'
export { freePort, skipUnlessRoot, temporaryFolder } from './machine.ts'
export {
  type FakeNats,
  findNatsServer,
  startDomainCluster,
  startDomainNats,
  startFakeNats,
  startNats,
  type TestDomainNats,
  type TestDomainNatsOptions,
  type TestNats,
} from './nats.ts'
export { createNetns, type TestNetns } from './netns.ts'
export { type StartingMember, testStartTrouble } from './start-trouble.ts'
