// Keeps the logs and traces of a lab bounded: a file that has grown too large is kept once as `.1` and begun anew.
// Writers append, so they go on at the new end. Arguments: the folders to look after.
import { copyFileSync, readdirSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'

/** Of one file; with its `.1`, a process of a lab takes at most twice this for its log and twice for its traces. */
const FILE_MAX_BYTES = 8 * 1024 ** 2
const PERIOD_MS = 5000

const folders = process.argv.slice(2)
setInterval(() => {
  for (const folder of folders) {
    for (const name of readdirSync(folder)) {
      const file = join(folder, name)
      if (name.endsWith('.1') || statSync(file).size <= FILE_MAX_BYTES) continue
      copyFileSync(file, `${file}.1`)
      truncateSync(file)
    }
  }
}, PERIOD_MS)
