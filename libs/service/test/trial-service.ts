import { once } from 'node:events'
import { run } from '../src/index.ts'

/** A service whose life is told by TRIAL, for the test beside this file. */
await run({
  name: 'trial',
  readConfig: (env) => ({
    trial: env.oneOf('TRIAL', ['serve', 'hang', 'defect', 'stuck', 'refused', 'warned'], {
      help: 'what to do',
    }),
    count: env.integer('TRIAL_COUNT', { help: 'a number', default: 1 }),
  }),
  async start({ trial }, { log, signal }) {
    if (trial === 'refused') {
      const { PortInUseError } = await import('@weft/errors')
      throw new PortInUseError({ address: '127.0.0.1:1' })
    }
    const timer = setInterval(() => undefined, 1000)
    if (trial === 'hang') {
      log.info('hanging')
      await once(signal, 'abort')
      throw new Error('gave up')
    }
    if (trial === 'warned') process.emitWarning('the clock is odd')
    if (trial === 'defect') void Promise.reject(new Error('nobody catches this'))
    return {
      addresses: ['127.0.0.1:7001'],
      async [Symbol.asyncDispose]() {
        log.info({ aborted: signal.aborted }, 'draining')
        if (trial === 'stuck') await Promise.withResolvers<void>().promise
        clearInterval(timer)
      },
    }
  },
})
