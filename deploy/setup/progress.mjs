// One line per step: redrawn in place on a terminal, else one line when a step begins and one when it ends.

const FRAME_MS = 120
const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏']

/**
 * @typedef {object} Step
 * @property {string} title
 * @property {'running' | 'done' | 'failed'} state
 * @property {number} startedAt milliseconds
 * @property {number} endedAt milliseconds
 * @property {string} detail what it says at present
 */

export class Progress {
  /** @type {Step[]} */
  #steps = []
  #stream
  #isTerminal
  #drawnLines = 0
  #frame = 0
  #timer

  /** @param {import('node:tty').WriteStream} stream */
  constructor(stream = process.stderr) {
    this.#stream = stream
    this.#isTerminal = stream.isTTY && process.env.TERM !== 'dumb'
  }

  /**
   * Runs one step and shows it. `work` may say what it is at by calling its argument.
   * @template T
   * @param {string} title
   * @param {(say: (detail: string) => void) => Promise<T>} work
   * @returns {Promise<T>}
   */
  async step(title, work) {
    /** @type {Step} */
    const step = { title, state: 'running', startedAt: Date.now(), endedAt: 0, detail: '' }
    this.#steps.push(step)
    if (this.#isTerminal) {
      this.#timer ??= setInterval(() => this.#draw(), FRAME_MS).unref()
      this.#draw()
    } else {
      this.#stream.write(`  ... ${title}\n`)
    }
    try {
      const result = await work((detail) => {
        step.detail = detail
      })
      this.#end(step, 'done')
      return result
    } catch (error) {
      this.#end(step, 'failed')
      throw error
    }
  }

  /** Leaves the last picture standing. */
  stop() {
    clearInterval(this.#timer)
    this.#timer = undefined
    if (this.#isTerminal && this.#steps.length > 0) this.#draw()
    this.#steps = []
    this.#drawnLines = 0
  }

  #end(step, state) {
    step.state = state
    step.endedAt = Date.now()
    step.detail = ''
    if (this.#isTerminal) this.#draw()
    else
      this.#stream.write(`  ${state === 'done' ? 'ok ' : 'ERR'} ${step.title} (${seconds(step)})\n`)
  }

  #draw() {
    this.#frame = (this.#frame + 1) % FRAMES.length
    const width = this.#stream.columns || 80
    const up = this.#drawnLines > 0 ? `\x1b[${this.#drawnLines}A` : ''
    const lines = this.#steps.map((step) => `\x1b[2K${this.#line(step, width)}\n`)
    this.#stream.write(up + lines.join(''))
    this.#drawnLines = lines.length
  }

  #line(step, width) {
    const mark = step.state === 'running' ? FRAMES[this.#frame] : step.state === 'done' ? '✓' : '✗'
    const head = `  ${mark} ${step.title} ${seconds(step)}`
    return step.detail === '' ? head : `${head}  ${step.detail}`.slice(0, width - 1)
  }
}

/** @param {Step} step */
function seconds(step) {
  const ms = (step.state === 'running' ? Date.now() : step.endedAt) - step.startedAt
  return `${(ms / 1000).toFixed(1)} s`
}
