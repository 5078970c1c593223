import assert from 'node:assert/strict'
import { existsSync, rmSync } from 'node:fs'
import { type TestContext, test } from 'node:test'
import { NeedsRootError } from '@weft/errors'
import { startLab } from './lab.ts'
import { labFolder } from './plan.ts'
import { removeLab } from './remove.ts'
import { writeState } from './state.ts'

const NAME = `t${process.pid}-root`

test('a lab is refused to anyone but root before anything is made', async (context) => {
  asSomebody(context)
  await assert.rejects(startLab({ name: NAME }), NeedsRootError)
  assert(!existsSync(labFolder(NAME)))
})

test("root's lab stays when somebody else removes it", {
  skip: process.getuid?.() === 0 ? false : 'needs root',
}, async (context) => {
  writeState({
    name: NAME,
    topology: 'pair',
    startedAtUnixMs: 0,
    namespaces: [],
    added: [],
    owner: undefined,
    options: {},
  })
  context.after(() => rmSync(labFolder(NAME), { recursive: true, force: true }))
  const somebody = asSomebody(context)
  await assert.rejects(removeLab(NAME), NeedsRootError)
  assert(existsSync(labFolder(NAME)))
  somebody.restore()
  assert.equal(await removeLab(NAME), true)
})

function asSomebody(context: TestContext): { restore(): void } {
  return context.mock.method(process as { getuid(): number }, 'getuid', () => 1000).mock
}
