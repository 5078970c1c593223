import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createBusOperator, newBusLogin } from '@weft/bus/operator'
import { testDomain, testStartTrouble, writeIdentityFolder } from '@weft/testing'

const domain = testDomain()
const now = new Date()
const operator = createBusOperator({ domain: domain.name, now })

testStartTrouble(
  fileURLToPath(new URL('../src/main.ts', import.meta.url)),
  'WEFT_LOCATION_RESOLVER_LISTEN',
  {
    domain,
    operator,
    async prepare(path) {
      const folder = join(path, 'identity')
      const bus = newBusLogin({
        account: operator.accounts.location.seed,
        principal: { kind: 'service', name: 'location-resolver', replica: '1' },
        now,
        expiresAt: new Date(now.getTime() + 3_600_000),
      })
      const credentials = domain.credentials({ kind: 'service', id: 'location-resolver' }, { bus })
      await writeIdentityFolder({ folder, domain, credentials })
      return { WEFT_IDENTITY_DIR: folder }
    },
  },
)
