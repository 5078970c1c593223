import { asWeftError, type ClockWrongError, ExitCode, toWire, WeftError } from '@weft/errors'
import { CommanderError } from 'commander'
import { type Io, painter } from './io.ts'
import type { Session } from './session.ts'

/** Says on standard error what was wrong and the way out; with `-o json` as one JSON object. Returns the exit code. */
export function report(error: unknown, io: Io, format: string): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.Ok : ExitCode.BadInput
  const known = asWeftError(error)
  if (format === 'json') {
    io.stderr(`${JSON.stringify({ error: toWire(known) }, undefined, 2)}\n`)
    return known.exitCode
  }
  const paint = painter(io, io.isErrorTerminal)
  io.stderr(`${paint('red', 'error:')} ${known.message}\n`)
  if (known.remedy !== '') io.stderr(`${paint('bold', 'try:')} ${known.remedy}\n`)
  const cause = causeOf(error)
  if (cause !== undefined) io.stderr(`${cause}\n`)
  return known.exitCode
}

/** A defect of ours is shown with its stack, so that it can be reported. */
function causeOf(error: unknown): string | undefined {
  if (!(error instanceof WeftError)) return error instanceof Error ? error.stack : String(error)
  const { cause } = error
  return error.code === 'internal' && cause instanceof Error
    ? `cause: ${cause.stack ?? cause.message}`
    : undefined
}

/** Says to a new member that nobody can be judged by the clock of this machine. */
export function warnOfClock({ io, paintError: paint }: Session, wrong: ClockWrongError): void {
  io.stderr(
    `${paint('yellow', 'warning:')} ${wrong.message}. The identity is there, and of use here when the clock is right.\n${paint('bold', 'try:')} ${wrong.remedy}\n`,
  )
}

/** Text of `weft help exit-codes`. */
export const EXIT_CODES_HELP = `Exit codes of weft:

  0  done
  1  a defect of weft: please report it
  2  wrong usage or input: an option, a name, an address, a file
  3  not found: a tenant, zone, network, host, endpoint, port, namespace or device
  4  conflict: it exists, is in use, is taken, is full or was changed meanwhile
  5  unavailable: what has to answer does not; nothing was changed, or the change may be repeated
  6  refused: not allowed, or not possible without sending something unencrypted
  7  the machine lacks something: root, a kernel feature, a program, a free port

weft lab exec ends with the exit code of the command that it ran: 126 if it may not be run, 127 if it
is not there, 128 and the number of the signal if a signal ended it.
weft ping ends with 5 if no request was answered.
`
