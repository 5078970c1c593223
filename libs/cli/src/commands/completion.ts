import type { Command, Option } from 'commander'
import type { Io } from '../io.ts'

export function registerCompletion(program: Command, io: Io): void {
  program
    .command('completion <shell>')
    .description('print a script that completes commands and options: bash, zsh or fish')
    .addHelpText(
      'after',
      '\nExamples:\n  source <(weft completion bash)\n  source <(weft completion zsh)      after compinit\n  weft completion fish | source\n',
    )
    .action((shell: string, _options: unknown, command: Command) => {
      const script = SCRIPTS[shell]
      if (script === undefined)
        command.error(
          `error: no completion for ${shell}; known: ${Object.keys(SCRIPTS).join(', ')}`,
        )
      else io.stdout(script)
    })

  program
    .command('complete [words...]', { hidden: true })
    .allowUnknownOption()
    .passThroughOptions()
    .action((words: string[]) => {
      io.stdout(
        candidates(program, words)
          .map((word) => `${word}\n`)
          .join(''),
      )
    })
}

/** What may stand in the place of the last word. */
export function candidates(program: Command, words: readonly string[]): string[] {
  const last = words.at(-1) ?? ''
  const before = words.slice(0, -1)
  let command = program
  for (const word of before) {
    command = command.commands.find((candidate) => candidate.name() === word) ?? command
  }
  const named = command.options.find((option) => isNamed(option, before.at(-1)))
  const choices = named?.argChoices ?? (named?.required === true ? [] : undefined)
  const all =
    choices ??
    (last.startsWith('-') || command.commands.length === 0
      ? command.options.flatMap((option) => option.long ?? [])
      : command.commands
          .filter((candidate) => !isHidden(candidate))
          .map((candidate) => candidate.name()))
  return all.filter((word) => word.startsWith(last))
}

function isNamed(option: Option, word: string | undefined): boolean {
  return word !== undefined && (option.long === word || option.short === word)
}

function isHidden(command: Command): boolean {
  return command.name() === 'complete'
}

/**
 * Each asks `weft complete` with the words up to the cursor, and offers files where that says nothing. The one for zsh may be sourced after
 * `compinit`, or lie as `_weft` in `fpath`, where it is run in the place of the function that it defines.
 */
const SCRIPTS: { readonly [shell: string]: string } = {
  bash: `_weft() {
  COMPREPLY=($(weft complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _weft weft
`,
  zsh: `#compdef weft
_weft() {
  local -a found
  found=(\${(f)"$(weft complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)"})
  if (( $#found )); then compadd -- $found; else _files; fi
}
if [[ $funcstack[1] == _weft ]]; then _weft "$@"; else compdef _weft weft; fi
`,
  fish: `function __weft_complete
  set -l found (weft complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)
  if set -q found[1]
    string join -- \\n $found
  else
    __fish_complete_path (commandline -ct)
  end
end
complete -c weft -f -a '(__weft_complete)'
`,
}
