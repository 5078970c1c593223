import { styleText } from 'node:util'

/** What the command has of the world; tests give it another one. */
export interface Io {
  readonly stdout: (text: string) => void
  readonly stderr: (text: string) => void
  readonly env: NodeJS.ProcessEnv
  /** Whether standard output is a terminal. */
  readonly isTerminal: boolean
  /** Whether standard error is one. */
  readonly isErrorTerminal: boolean
  /** Whether standard input is one, so that somebody can be asked. */
  readonly isInputTerminal: boolean
  /** Standard input up to its end. @throws InvalidArgumentError if it is longer */
  readonly readInput: (maxBytes: number) => Promise<string>
  /** Asks on standard error and reads a line of standard input. */
  readonly ask: (question: string) => Promise<string>
  /** Width of the terminal. */
  readonly columns: number
}

export type Colour = 'bold' | 'dim' | 'green' | 'yellow' | 'red'

/** Colours a text, or leaves it as it is. */
export type Paint = (colour: Colour, text: string) => string

/** Colours on a terminal only, and not where `NO_COLOR` (no-color.org) or a dumb terminal asks for none. */
export function painter({ env }: Io, isTerminal: boolean): Paint {
  const isWanted = isTerminal && !env['NO_COLOR'] && env['TERM'] !== 'dumb'
  return isWanted
    ? (colour, text) => styleText(colour, text, { validateStream: false })
    : (_, text) => text
}
