import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createBusOperator, newBusLogin } from '@weft/bus/operator'
import { testDomain, testStartTrouble, writeIdentityFolder } from '@weft/testing'

const domain = testDomain()
const now = new Date()
const operator = createBusOperator({ domain: domain.name, now })

testStartTrouble(
  fileURLToPath(new URL('../src/main.ts', import.meta.url)),
  'WEFT_ROUTING_POLICY_LISTEN',
  {
    domain,
    operator,
    async prepare(path) {
      const folder = join(path, 'identity')
      const bus = newBusLogin({
        account: operator.accounts.routing.seed,
        principal: { kind: 'service', name: 'routing-policy', replica: '1' },
        now,
        expiresAt: new Date(now.getTime() + 3_600_000),
      })
      const credentials = domain.credentials({ kind: 'service', id: 'routing-policy' }, { bus })
      await writeIdentityFolder({ folder, domain, credentials })
      return { WEFT_IDENTITY_DIR: folder }
    },
  },
)
