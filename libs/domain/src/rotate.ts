import { randomUUID } from 'node:crypto'
import { asWeftError, NotEnrolledError, PermissionDeniedError } from '@weft/errors'
import { publicKeyOf, signStatement, TUNNEL_KEY_OVERLAP_MS } from '@weft/identity'
import {
  CertificateServiceService,
  RotationStatement,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import { PublicKeys } from '@weft/proto/weftline/identity/v1/identity.ts'
import { connect } from '@weft/rpc'
import { firstAnswer, type OwnCredentials, openCredentials, REFUSED } from './credentials.ts'
import {
  checkCredentials,
  readIdentity,
  readNextKeys,
  removeIdentity,
  settleKeys,
  writeCredentials,
  writeNextKeys,
} from './identity-folder.ts'
import { idempotencyKeyOf, newHostKeys, publicKeysOf } from './member-keys.ts'

export interface MemberFolder {
  /** Identity folder. */
  readonly folder: string
  readonly signal?: AbortSignal
}

/**
 * Gives the host of this folder new keys of all kinds. They are kept beside the old ones before they are told to anybody,
 * and take their places once there is a certificate for them: cut short at any point, doing it again within 10 minutes ends it
 * well. After that a host that is not known by its new keys has none, and joins again.
 * @throws NotEnrolledError; PermissionDeniedError for who is no host; UnavailableError
 */
export async function rotateHostKeys(options: MemberFolder): Promise<void> {
  const { folder, signal } = options
  const before = await readIdentity(folder)
  if (before === undefined) throw new NotEnrolledError({ folder, who: 'host' })
  if (before.identity.kind !== 'host') throw onlyHosts('rotating keys', before.identity.kind)
  const pending = await readNextKeys(folder)
  const keys = pending ?? newHostKeys()
  if (pending === undefined) await writeNextKeys(folder, keys)
  const { tunnel } = before.keys
  const previous = tunnel && {
    tunnelKey: tunnel,
    untilUnixMs: Date.now() + TUNNEL_KEY_OVERLAP_MS,
  }
  const newKeys = signStatement(
    'rotation-new',
    PublicKeys.encode(publicKeysOf(keys, previous)).finish(),
    keys.identity,
  )
  const statement = signStatement(
    'rotation',
    RotationStatement.encode({ hostId: before.identity.id, newKeys }).finish(),
    before.keys.identity,
  )
  const publicKey = publicKeyOf(keys.identity)
  const idempotencyKey = idempotencyKeyOf(keys)
  const ask = async (own: OwnCredentials) =>
    await firstAnswer('config', own.places.config, async (address) => {
      await using config = connect(address, CertificateServiceService, {
        security: { kind: 'mutual-tls', credentials: own, peer: 'config' },
      })
      const answer = await config.rotateKeys({ idempotencyKey, statement }, signal && { signal })
      return answer.credentials
    })
  await using own = await openCredentials({ folder, renew: 'watch' })
  try {
    const { identity, root } = before
    const { message } = checkCredentials(await ask(own), { publicKey, root, identity })
    await writeCredentials(folder, message)
    await settleKeys(folder)
  } catch (error) {
    if (pending === undefined || !REFUSED.has(asWeftError(error).code)) throw error
    // The old keys are void already: an earlier attempt got through, and only its answer was lost.
    await own.renewNow()
  }
}

/**
 * Takes the host of this folder out of its domain, then removes its identity. False if it had left before.
 * @throws NotEnrolledError; PermissionDeniedError for who is no host; UnavailableError
 */
export async function leaveDomain(options: MemberFolder): Promise<boolean> {
  const { folder, signal } = options
  await using own = await openCredentials({ folder, renew: 'watch' })
  if (own.identity.kind !== 'host') throw onlyHosts('leaving', own.identity.kind)
  const idempotencyKey = randomUUID()
  const left = await firstAnswer('config', own.places.config, async (address) => {
    await using config = connect(address, CertificateServiceService, {
      security: { kind: 'mutual-tls', credentials: own, peer: 'config' },
    })
    return (await config.leave({ idempotencyKey }, signal && { signal })).left
  })
  await removeIdentity(folder)
  return left
}

function onlyHosts(what: string, kind: string): PermissionDeniedError {
  return new PermissionDeniedError({
    what,
    problem: `the identity is that of a ${kind}, and only hosts do this`,
    remedy: 'name the folder of the host: --identity DIR',
  })
}
