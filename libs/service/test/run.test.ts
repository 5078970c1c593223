import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { eventually } from '@weft/testing'

const trialService = fileURLToPath(new URL('trial-service.ts', import.meta.url))

interface Line {
  readonly level: string
  readonly msg: string
  readonly [fact: string]: unknown
}

interface Trial {
  readonly process: ChildProcess
  readonly lines: readonly Line[]
  readonly exited: Promise<unknown>
  has(message: string): boolean
}

describe('a service', () => {
  test('logs one line when it is ready, and drains when it is asked to stop', async () => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      const trial = startTrial({ TRIAL: 'serve', WEFT_METRICS_LISTEN: '127.0.0.1:0' })
      await eventually(() => trial.has('ready'))
      trial.process.kill(signal)
      assert.equal(await trial.exited, 0)
      const messages = trial.lines.map(({ msg }) => msg)
      assert.deepEqual(messages, ['ready', 'stopping', 'draining', 'stopped'])
      const [ready, , draining] = trial.lines
      assert.deepEqual(ready?.['addresses'], ['127.0.0.1:7001'])
      assert.match(String(ready?.['metrics']), /^127\.0\.0\.1:[1-9][0-9]*$/)
      assert.equal(ready?.['service'], 'trial')
      assert.equal(draining?.['aborted'], true, 'the signal comes before the drain')
    }
  })

  test('with a bad configuration exits with 64 and names every mistake', async () => {
    const trial = startTrial({ TRIAL_COUNT: 'x', WEFT_LOG_LEVEL: 'loud' })
    assert.equal(await trial.exited, 64)
    assert.equal(trial.lines.length, 1)
    assert.match(trial.lines[0]?.msg ?? '', /3 mistakes.*WEFT_LOG_LEVEL.*TRIAL .*TRIAL_COUNT/s)
  })

  test('that cannot start exits with the code of its error and logs the way out', async () => {
    const trial = startTrial({ TRIAL: 'refused' })
    assert.equal(await trial.exited, 7)
    assert.equal(trial.lines[0]?.['code'], 'port-in-use')
    assert.match(String(trial.lines[0]?.['remedy']), /stop the process/)
  })

  test('that is asked to stop while it starts, stops', async () => {
    const trial = startTrial({ TRIAL: 'hang' })
    await eventually(() => trial.has('hanging'))
    trial.process.kill('SIGTERM')
    assert.equal(await trial.exited, 0)
    assert(!trial.has('ready'))
  })

  test('with an error that nobody caught drains and exits with 70', async () => {
    const trial = startTrial({ TRIAL: 'defect' })
    assert.equal(await trial.exited, 70)
    assert(trial.has('an error escaped its handler'))
    assert(trial.has('draining'))
  })

  test('writes a warning of Node among its log lines and nowhere else', async () => {
    const trial = startTrial({ TRIAL: 'warned' })
    let text = ''
    trial.process.stderr?.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    await eventually(() => trial.has('a warning of the runtime') && trial.has('ready'))
    trial.process.kill('SIGTERM')
    assert.equal(await trial.exited, 0)
    assert.equal(text, '')
  })

  test('that does not drain is ended at the deadline', async () => {
    const trial = startTrial({ TRIAL: 'stuck' })
    await eventually(() => trial.has('ready'))
    trial.process.kill('SIGTERM')
    assert.equal(await trial.exited, 0)
    assert(trial.has('not drained in time'))
  })

  test('describes its variables for --help', async () => {
    const child = spawn(process.execPath, [trialService, '--help'])
    let text = ''
    child.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    const [code] = await once(child, 'close')
    assert.equal(code, 0)
    assert.match(text, /^ {2}TRIAL_COUNT\n {6}a number \(integer from 0; default 1\)$/m)
    assert.match(text, /WEFT_METRICS_LISTEN/)
  })
})

function startTrial(environment: { readonly [name: string]: string }): Trial {
  const child = spawn(process.execPath, [trialService], { env: environment })
  const lines: Line[] = []
  let rest = ''
  child.stdout.on('data', (chunk: Buffer) => {
    const parts = (rest + chunk.toString()).split('\n')
    rest = parts.pop() ?? ''
    lines.push(...parts.map((part) => JSON.parse(part) as Line))
  })
  return {
    process: child,
    lines,
    exited: once(child, 'close').then(([code]) => code as unknown),
    has: (message) => lines.some(({ msg }) => msg === message),
  }
}
