import { Command, Option } from 'commander'
import { registerApply } from './commands/apply.ts'
import { registerAudit } from './commands/audit.ts'
import { registerAuthority } from './commands/authority.ts'
import { registerCertificate } from './commands/certificate.ts'
import { registerCompletion } from './commands/completion.ts'
import { registerConnection } from './commands/connection.ts'
import { registerContext } from './commands/context.ts'
import { registerDoctor } from './commands/doctor.ts'
import { registerEndpoint } from './commands/endpoint.ts'
import { registerHost } from './commands/host.ts'
import { registerInit } from './commands/init.ts'
import { registerJoin } from './commands/join.ts'
import { registerLab } from './commands/lab.ts'
import { registerLogin } from './commands/login.ts'
import { registerNetwork } from './commands/network.ts'
import { registerPing } from './commands/ping.ts'
import { registerPort } from './commands/port.ts'
import { registerStatus } from './commands/status.ts'
import { registerTenant } from './commands/tenant.ts'
import { registerToken } from './commands/token.ts'
import { registerUser } from './commands/user.ts'
import { registerZone } from './commands/zone.ts'
import type { Io } from './io.ts'
import { OUTPUT_FORMATS, type View } from './output.ts'
import { EXIT_CODES_HELP, report } from './report.ts'
import { type CommonOptions, Session } from './session.ts'
import { traced } from './trace.ts'

export type { Io } from './io.ts'

/** What a command's work may end with: something to print, an exit code, or neither. */
export type Result = View | number | undefined

/** Registers the work of a command: `act(work)` runs it in a session, with arguments and options as commander has them. */
export type Act = <Arguments extends unknown[]>(
  work: (session: Session, ...given: Arguments) => Promise<Result>,
) => (...given: Arguments) => Promise<void>

/**
 * Runs the command line.
 * @param argv the words after the program's name
 * @returns the exit code, of `weft help exit-codes`
 */
export async function runCli(argv: readonly string[], io: Io): Promise<number> {
  let exitCode = 0
  let format = formatIn(argv)
  const program = createProgram(io, (work) => async (...given) => {
    const command = given.at(-1) as Command
    const options = command.optsWithGlobals<CommonOptions>()
    format = options.output
    await traced(io, pathOf(command), async () => {
      await using session = new Session(io, options)
      const result = await work(session, ...given)
      if (typeof result === 'number') exitCode = result
      else if (result !== undefined) await session.print(result)
    })
  })
  try {
    await program.parseAsync(argv, { from: 'user' })
    return exitCode
  } catch (error) {
    return report(error, io, format)
  }
}

/** The tree of commands. */
export function createProgram(io: Io, act: Act): Command {
  const program = new Command('weft')
    .description('Virtual layer-2 networks, made on demand, across any hosts.')
    .configureOutput({
      writeOut: io.stdout,
      writeErr: io.stderr,
      getOutHelpWidth: () => io.columns,
    })
    .showHelpAfterError('try: the same with --help')
    .exitOverride()
    .helpCommand(false)
    .enablePositionalOptions()

  program.commandsGroup('Objects of the VN database:')
  registerTenant(program, act)
  registerZone(program, act)
  registerNetwork(program, act)
  registerHost(program, act)
  registerEndpoint(program, act)
  registerApply(program, act)
  program.commandsGroup('Who may do what:')
  registerInit(program, act)
  registerToken(program, act)
  registerJoin(program, act)
  registerUser(program, act)
  registerLogin(program, act)
  registerContext(program, act)
  registerAudit(program, act)
  registerAuthority(program, act)
  registerCertificate(program, act)
  program.commandsGroup('At a host:')
  registerPort(program, act)
  registerConnection(program, act)
  registerPing(program, act)
  registerDoctor(program, act)
  program.commandsGroup('Everything:')
  registerStatus(program, act)
  registerLab(program, act)
  registerCompletion(program, io)
  registerHelp(program, io)
  program.addHelpText('after', `\n${EPILOGUE}`)
  for (const leaf of leavesOf(program)) addCommonOptions(leaf)
  return program
}

const EPILOGUE = `Where the control server and hosts are found, and who asks: WEFT_CONTROL (HOST:PORT or unix:/PATH),
WEFT_HOST_SOCKET (/PATH), WEFT_TENANT and WEFT_IDENTITY (/PATH) go before the file in WEFT_CONTEXT, which goes before
your current context (weft context), which goes before that of a running lab.

Examples:
  weft network create blue --prefix 10.20.0.0/16 --prefix fd20::/64
  weft endpoint attach web --network blue --host alpha --netns /run/netns/web
  weft ping blue/web blue/api
  weft help exit-codes
`

function registerHelp(program: Command, io: Io): void {
  program
    .command('help')
    .description('help on a command, or on exit-codes')
    .argument('[topic...]', 'words of a command, or exit-codes')
    .action((topic: string[]) => {
      if (topic[0] === 'exit-codes') {
        io.stdout(EXIT_CODES_HELP)
        return
      }
      let command: Command = program
      for (const word of topic) {
        const next = command.commands.find((candidate) => candidate.name() === word)
        if (next === undefined) program.error(`error: there is no command ${topic.join(' ')}`)
        else command = next
      }
      command.outputHelp()
    })
}

/** For example `weft endpoint attach`. */
function pathOf(command: Command): string {
  return command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`
}

function leavesOf(command: Command): Command[] {
  return command.commands.length === 0 ? [command] : command.commands.flatMap(leavesOf)
}

function addCommonOptions(leaf: Command): void {
  if (['help', 'completion', 'complete'].includes(leaf.name())) return
  leaf.addOption(
    new Option('-o, --output <format>', 'how to print').choices(OUTPUT_FORMATS).default('table'),
  )
  if (!leaf.options.some((option) => option.long === '--tenant')) {
    leaf.addOption(new Option('--tenant <tenant>', 'tenant that is meant where none is named'))
  }
  leaf.addOption(
    new Option('--context <name>', 'one of your contexts; the current one if not given'),
  )
}

/** The format of errors that come before the options are read. */
function formatIn(argv: readonly string[]): string {
  const at = argv.findIndex((word) => word === '-o' || word === '--output')
  return (
    (at < 0 ? argv.find((word) => word.startsWith('--output='))?.slice(9) : argv[at + 1]) ?? 'table'
  )
}
