import { run } from '@weft/service'
import { readConfig } from './config.ts'
import { start } from './service.ts'

await run({ name: 'location-resolver', readConfig, start })
