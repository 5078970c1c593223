import type { Bus } from '@weft/bus'
import { type AccountIds, accountJwt, pushAccount } from '@weft/bus/operator'
import type { BusAdmin } from './revocations.ts'

/**
 * Refuses users by giving the servers the account of the hosts anew, signed in the operator's name. Told the same users once
 * more, it gives the same one: servers that have it take no notice, and one that came back with an older one takes it.
 */
export function busAdmin(options: {
  /** Connected as the system user. */
  readonly system: Bus
  readonly accounts: AccountIds
  /** nkey seed of the operator's signing key. */
  readonly signingSeed: Uint8Array
}): BusAdmin {
  const { system, accounts, signingSeed } = options
  let last: { readonly users: string; readonly jwt: string } | undefined
  return {
    async refuse(revokedUsers) {
      const users = revokedUsers.toSorted().join(' ')
      if (last?.users !== users) {
        const now = new Date()
        const account = 'hosts'
        last = {
          users,
          jwt: accountJwt({ account, ids: accounts, signingSeed, now, revokedUsers }),
        }
      }
      await pushAccount(system, last.jwt)
    },
  }
}
