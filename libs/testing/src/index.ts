export { eventually } from './eventually.ts'
export { freePort, skipUnlessRoot, temporaryFolder } from './machine.ts'
export { findNatsServer, startNats, type TestNats } from './nats.ts'
export { createNetns, type TestNetns } from './netns.ts'
