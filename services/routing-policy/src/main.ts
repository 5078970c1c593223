import { run } from '@weft/service'
import { readConfig } from './config.ts'
import { start } from './service.ts'

await run({ name: 'routing-policy', readConfig, start })
