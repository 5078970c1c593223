import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const run = fileURLToPath(new URL('run.mjs', import.meta.url))
/** The clone may lie where only root reads: so the same program, told that it is somebody else's. */
const AS_SOMEBODY = 'data:text/javascript,process.getuid = () => 1000'

test('without root each command that needs it ends with 7 and says how to get it', () => {
  for (const [command, words] of [
    ['lab', 'run lab'],
    ['test', 'test'],
  ] as const) {
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      ['--import', AS_SOMEBODY, run, command, '--help'],
      { encoding: 'utf8' },
    )
    assert.equal(status, 7, stderr)
    assert.equal(stdout, '')
    assert.match(
      stderr,
      new RegExp(`this is not root\\n    try: run it as root: sudo npm ${words}\\n`),
    )
  }
})

test('a command that is not on the menu is refused with the menu', () => {
  const { status, stderr } = spawnSync(process.execPath, [run, 'lob'], { encoding: 'utf8' })
  assert.equal(status, 2)
  assert.match(stderr, /^error: no command lob\ntry: one of lab, test,/)
})
