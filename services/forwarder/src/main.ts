import { run } from '@weft/service'
import { readConfig } from './config.ts'
import { start } from './service.ts'

await run({ name: 'forwarder', readConfig, start })
