import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { type FileHandle, open, readdir, stat, truncate, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { AuditUnavailableError } from '@weft/errors'
import { eventually, skipUnlessRoot, temporaryFolder } from '@weft/testing'
import type { AuditFile } from '../src/audit/file-copy.ts'
import { action, readCopy, startAudit } from './audit-site.ts'

const run = promisify(execFile)

test('each way in which the file can fail refuses the intent, loses nothing that was promised, and heals by itself', async (context) => {
  for (const fault of ['open', 'write', 'short-write', 'datasync', 'truncate'] as const) {
    await context.test(fault, async () => {
      const faults = new Faults()
      if (fault === 'open') faults.set(fault)
      await using site = await startAudit({ openFile: (path) => faults.open(path) })
      if (fault !== 'open') await site.audit.intent(action({ object: 'before' }))
      faults.set(fault)

      const refused = site.audit.intent(action({ object: 'during' }))
      await assert.rejects(refused, (error) => {
        assert(error instanceof AuditUnavailableError)
        assert.match(error.message, /file .*\.audit: .*ENOSPC/)
        return true
      })
      await assert.rejects(site.audit.intent(action({ object: 'still' })), AuditUnavailableError)
      const { entries } = await site.readBucket()
      faults.set(undefined)
      await eventually(() => site.audit.intent(action({ object: 'after' })))
      await site.stop()

      assert(entries.length <= 2, 'reads go on, and what was refused later was never written')
      const report = await site.verify()
      assert.deepEqual(report.findings, [])
      const objects = report.entries.map(({ object, reason }) => `${object} ${reason}`.trim())
      // Behind a head that could not be written it had no number yet.
      const numbered = ['before', 'during', 'during audit-unavailable']
      assert.deepEqual(objects, fault === 'open' ? ['after'] : [...numbered, 'after'])
    })
  }
})

test('a disk that does not answer holds up nobody for long', async () => {
  const faults = new Faults()
  await using site = await startAudit({ openFile: (path) => faults.open(path) })
  await site.audit.intent(action())
  const silent = faults.hold()

  const waiting = [1, 2, 3].map(() => site.audit.intent(action()))
  const outcomes = await Promise.allSettled(waiting)
  silent.resolve()

  for (const outcome of outcomes) {
    assert(outcome.status === 'rejected')
    assert.match(String(outcome.reason), /does not answer/)
  }
  await eventually(() => site.audit.intent(action()))
  await site.stop()
  assert.deepEqual((await site.verify()).findings, [])
})

test('a writer that is stopped while its disk is full ends, and says in its file no more than what is whole', async () => {
  const faults = new Faults()
  await using site = await startAudit({ openFile: (path) => faults.open(path) })
  await site.audit.intent(action())
  faults.set('short-write')
  await assert.rejects(site.audit.intent(action()), AuditUnavailableError)

  await site.stop()

  const file = await site.readFile()
  assert.equal(file.entries.length, 1)
  assert.equal(file.tornBytes, 0)
  const { findings } = await site.verify()
  assert(
    findings.every(({ severity }) => severity === 'notice'),
    JSON.stringify(findings.map((one) => one.text)),
  )
})

test('a writer that was killed leaves a chain that says which outcomes nobody knows, and the next one begins anew', async () => {
  await using folder = await temporaryFolder()
  await using crashed = await startAudit({ folder: folder.path, writer: 'first' })
  await crashed.audit.intent(action({ object: 'network acme/blue' }))
  const path = join(folder.path, 'first.audit')
  const sizeBytes = (await stat(path)).size
  await crashed.audit.intent(action())
  // It was killed in the middle of a record.
  await truncate(path, sizeBytes + 20)

  await using next = await startAudit({ folder: folder.path, bus: crashed.bus, writer: 'second' })
  await next.audit.intent(action())

  const report = await crashed.verify()
  assert.deepEqual(report.unknownOutcomes, [1n, 2n])
  assert.deepEqual(
    report.findings.map(({ kind, severity, firstNumber }) => [kind, severity, firstNumber]),
    [
      ['torn', 'notice', 0n],
      ['unconfirmed', 'notice', 2n],
      ['unsigned', 'notice', 1n],
    ],
  )
  assert.deepEqual((await next.verify()).entries[0]?.number, 1n)
  assert.deepEqual((await readdir(folder.path)).sort(), ['first.audit', 'second.audit'])
})

test('only its owner can read the file', async () => {
  await using site = await startAudit()
  await site.audit.intent(action())
  const [name = ''] = await readdir(site.folder)
  assert.equal((await stat(join(site.folder, name))).mode & 0o777, 0o600)
})

test('a file system that fills up refuses what it cannot keep, and goes on by itself when there is room', {
  skip: skipUnlessRoot(),
}, async () => {
  await using folder = await temporaryFolder()
  const mounted = folder.path
  await run('mount', ['-t', 'tmpfs', '-o', 'size=128k', 'tmpfs', mounted])
  await using unmounting = new AsyncDisposableStack()
  unmounting.defer(async () => void (await run('umount', ['-l', mounted])))
  await using site = await startAudit({ folder: mounted, writer: 'full' })
  const filler = join(mounted, 'filler')
  let written = 0

  await assert.rejects(
    async () => {
      await writeFile(filler, Buffer.alloc(64 * 1024))
      for (; ; written++)
        await site.audit.intent(action({ object: `${written} ${'x'.repeat(400)}` }))
    },
    (error) => error instanceof AuditUnavailableError && /ENOSPC/.test(error.message),
  )
  const whenFull = await readCopy(join(mounted, 'full.audit'))
  const shown = await site.readBucket()
  await unlink(filler)
  await eventually(() => site.audit.intent(action({ object: 'there is room' })))

  await site.stop()

  assert(written > 10)
  assert(whenFull.entries.length >= written)
  assert(shown.entries.length >= written)
  const report = await site.verify()
  assert.deepEqual(report.findings, [])
  const promised = report.entries.filter(({ object }) => /^\d+ /.test(object))
  assert(promised.length >= written)
})

type Fault = 'open' | 'write' | 'short-write' | 'datasync' | 'truncate'

/** Files that fail as they are told. */
class Faults {
  #fault: Fault | undefined
  #held: Promise<void> | undefined

  set(fault: Fault | undefined): void {
    this.#fault = fault
  }

  /** From now on nothing is synced until the answer is resolved. */
  hold(): PromiseWithResolvers<void> {
    const held = Promise.withResolvers<void>()
    this.#held = held.promise
    return held
  }

  async open(path: string): Promise<AuditFile> {
    this.#fail('open')
    const file = await open(path, 'wx', 0o600)
    const write = async (bytes: Buffer, from: number, length: number, position: number) => {
      this.#fail('write')
      const isShort = this.#fault === 'short-write' || this.#fault === 'truncate'
      const written = await file.write(
        bytes,
        from,
        isShort ? Math.ceil(length / 2) : length,
        position,
      )
      if (isShort) throw noSpace()
      return written
    }
    return {
      write: write as unknown as FileHandle['write'],
      datasync: async () => {
        await this.#held
        this.#fail('datasync')
        await file.datasync()
      },
      truncate: async (sizeBytes) => {
        this.#fail('truncate')
        await file.truncate(sizeBytes)
      },
      close: () => file.close(),
    }
  }

  #fail(operation: Fault): void {
    if (this.#fault === operation) throw noSpace()
  }
}

function noSpace(): Error {
  return Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' })
}
