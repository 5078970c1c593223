import { chmodSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import type { Lab } from '@weft/lab'
import { PrivateFolder } from './members.ts'

/** How often a process looks how wrong its clock is to be. */
const LOOK_MS = 50

/** A wall clock for one process of a lab that is set while it runs. The clock of the machine stays as it is. */
export class WrongClock implements Disposable {
  readonly #folder: PrivateFolder = new PrivateFolder()
  readonly #offsetFile: string
  /** Starts Node with that clock, for `lab.start`. */
  readonly program: string

  constructor(lab: Lab, name: string) {
    this.#offsetFile = `${lab.plan.folder}/clock-of-${name}`
    this.setMs(0)
    const code = encodeURIComponent(shiftedClock(this.#offsetFile)).replaceAll("'", '%27')
    this.program = this.#folder.write(
      'node',
      `#!/bin/sh
export NODE_OPTIONS='--import=data:text/javascript,${code}'
exec ${lab.plan.folder}/bin/node "$@"
`,
    )
    chmodSync(this.program, 0o755)
  }

  /** Puts the clock that far ahead of the machine's; a negative number puts it behind. */
  setMs(offsetMs: number): void {
    writeFileSync(`${this.#offsetFile}.new`, String(offsetMs), { mode: 0o644 })
    renameSync(`${this.#offsetFile}.new`, this.#offsetFile)
  }

  [Symbol.dispose](): void {
    rmSync(this.#offsetFile, { force: true })
    this.#folder[Symbol.dispose]()
  }
}

/** Replaces what tells the time of day. Timers and the time since the start are another clock, which is right. */
function shiftedClock(offsetFile: string): string {
  return `
    import { readFileSync } from 'node:fs'
    const RightDate = Date
    const rightNow = Date.now
    let offsetMs = 0
    const look = () => { offsetMs = Number(readFileSync(${JSON.stringify(offsetFile)}, 'utf8')) }
    look()
    setInterval(look, ${LOOK_MS}).unref()
    globalThis.Date = class Date extends RightDate {
      constructor(...values) {
        if (values.length === 0) super(rightNow() + offsetMs)
        else super(...values)
      }
      static now() { return rightNow() + offsetMs }
    }
  `
}
