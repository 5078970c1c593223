import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { testStartTrouble } from '@weft/testing'
import { newSite, writeFolders } from './domain.ts'

const site = newSite()

testStartTrouble(fileURLToPath(new URL('../src/main.ts', import.meta.url)), 'WEFT_CONFIG_LISTEN', {
  ...site,
  async prepare(folder) {
    await writeFolders(site, folder)
    return {
      WEFT_CONFIG_AUTHORITY: join(folder, 'authority'),
      WEFT_IDENTITY_DIR: join(folder, 'config'),
      WEFT_CONFIG_AUDIT_FOLDER: join(folder, 'audit'),
      WEFT_CONFIG_ENROLMENT_LISTEN: '127.0.0.1:0',
    }
  },
})
