export { type Enrolled, type JoinHost, joinHost, type LoginUser, loginUser } from './enrol.ts'
export { newHostKeys, newServiceKeys, newUserKeys, publicKeysOf } from './member-keys.ts'
export { findDomain, type PinnedDomain, type Preflight } from './preflight.ts'
export { leaveDomain, type MemberFolder, rotateHostKeys } from './rotate.ts'
