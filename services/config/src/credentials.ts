import type { Credentials } from '@weft/identity'
import type { Members } from './domain/members.ts'
import type { Revoker } from './revocations.ts'

/** Our own credentials, which refuse every key that the VN database knows to be void, the moment it does. */
export function informedCredentials(
  own: Credentials,
  members: Members,
  revoker: Revoker,
): Credentials {
  return {
    get identity() {
      return own.identity
    },
    get tls() {
      return own.tls
    },
    get bus() {
      return own.bus
    },
    get identityKey() {
      return own.identityKey
    },
    get directoryKey() {
      return own.directoryKey
    },
    isRevoked: (publicKey) => members.isRevoked(publicKey, Date.now()) || own.isRevoked(publicKey),
    onChange(listener) {
      const stops = [own.onChange(listener), revoker.onRevoked(() => listener('revoked'))]
      return () => {
        for (const stop of stops) stop()
      }
    },
  }
}
