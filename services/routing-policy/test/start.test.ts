import { fileURLToPath } from 'node:url'
import { testStartTrouble } from '@weft/testing'

testStartTrouble(
  fileURLToPath(new URL('../src/main.ts', import.meta.url)),
  'WEFT_ROUTING_POLICY_LISTEN',
)
