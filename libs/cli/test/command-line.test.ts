import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { createProgram, type Io, runCli } from '../src/program.ts'
import { type FakeControl, startFakeControl } from './fake-control.ts'

let control: FakeControl
/** Where `weft` and its Node are. */
const PROGRAMS = fileURLToPath(new URL('../../../node_modules/.bin', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'weft-cli-'))

before(async () => {
  control = await startFakeControl()
  await control.writeOwner(join(folder, 'owner'))
})
after(async () => {
  await control[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

test('a network is created, listed page by page, shown and removed', async () => {
  assert.equal((await weft('network create blue --prefix 10.20.0.0/16 --prefix fd20::/64')).code, 0)
  assert.equal((await weft('network create red --prefix 10.20.0.0/16 --label team=a')).code, 0)
  const listed = JSON.parse((await weft('network ls -o json')).stdout)
  assert.deepEqual(
    listed.map((network: { name: string }) => network.name),
    ['blue', 'red'],
  )
  assert.deepEqual(listed[0].prefixes, ['10.20.0.0/16', 'fd20::/64'])
  assert.deepEqual(listed[1].labels, { team: 'a' })
  assert.match((await weft('network show blue')).stdout, /prefixes\s+10\.20\.0\.0\/16, fd20::\/64/)
  assert.match((await weft('network show blue -o yaml')).stdout, /^mtuBytes: 1320$/m)
  assert.match((await weft('network rm red')).stdout, /network red removed/)
  assert.match((await weft('network rm red')).stdout, /there was no network red/)
  assert.equal((await weft('network rm blue')).code, 0)
})

test('every write has an idempotency key of its own', async () => {
  await weft('network create one --prefix 10.0.0.0/16')
  await weft('network create two --prefix 10.0.0.0/16')
  const keys = control.idempotencyKeys.slice(-2)
  assert.notEqual(keys[0], keys[1])
  assert(keys.every((key) => key.length >= 32))
  await weft('network rm one')
  await weft('network rm two')
})

const REFUSED: readonly (readonly [string, string, number, RegExp])[] = [
  [
    'a prefix with host bits',
    'network create a --prefix 10.0.0.1/8',
    2,
    /host bits[^]*try: give a prefix such as 10\.0\.0\.0\/8/,
  ],
  [
    'a prefix that is none',
    'network create a --prefix 10.0.0.0/64',
    2,
    /"10\.0\.0\.0\/64" is not a usable IP prefix/,
  ],
  [
    'a name with bad characters',
    'network create Blue --prefix 10.0.0.0/8',
    2,
    /it has the character "B"/,
  ],
  [
    'a name that is too long',
    `network create ${'a'.repeat(64)} --prefix 10.0.0.0/8`,
    2,
    /64 characters/,
  ],
  [
    'an MTU that is none',
    'network create a --prefix 10.0.0.0/8 --mtu big',
    2,
    /no whole number from 576/,
  ],
  [
    'a VNI of more than 24 bits',
    'network create a --prefix 10.0.0.0/8 --vni 16777216',
    2,
    /16777215/,
  ],
  ['a missing option', 'network create a', 2, /--prefix/],
  ['an unknown command', 'netwrok ls', 2, /unknown command/],
  ['an unknown option', 'network ls --colour', 2, /unknown option/],
  ['an unknown format', 'network ls -o xml', 2, /table, json, yaml/],
  [
    'an unknown network',
    'network show nowhere',
    3,
    /there is no network nowhere[^]*try: list them with: weft network ls/,
  ],
  [
    'an endpoint without its network',
    'endpoint create web',
    2,
    /web is on which network\?[^]*--network NETWORK/,
  ],
  [
    'a network that is named twice',
    'endpoint create blue/web --network red',
    2,
    /leave one of them out/,
  ],
  [
    'an address that is none',
    'endpoint create blue/web --ip 10.0.0.256',
    2,
    /not a usable IP address/,
  ],
  [
    'a MAC address that is none',
    'endpoint create blue/web --mac 02:00',
    2,
    /not a usable MAC address/,
  ],
  ['a label without a value', 'tenant create acme --label team', 2, /KEY=VALUE/],
  ['an underlay address without its zone', 'host add alpha --address 192.0.2.1', 2, /ADDRESS@ZONE/],
  ['nothing to attach', 'port attach blue/web', 2, /nothing to join[^]*--netns PATH or --tap NAME/],
  ['two things to attach', 'port attach blue/web --netns /x --tap y', 2, /two things/],
  ['an unknown host', 'port ls --host omega', 3, /there is no host omega/],
  [
    'a lab with a topology that is not there',
    'lab up --topology /nowhere.yaml',
    2,
    /cannot be read[^]*routed, pair, nat/,
  ],
  ['a file that is not there', 'apply -f /nowhere.yaml', 2, /cannot be read/],
]
for (const [what, line, code, message] of REFUSED) {
  test(`${what} is refused, with the way out`, async () => {
    const outcome = await weft(line)
    assert.equal(outcome.code, code, outcome.stderr)
    assert.match(outcome.stderr, message)
    assert.match(outcome.stderr, /^try: /m)
    assert.equal(outcome.stdout, '')
  })
}

test('a control server that does not answer is named with its address', async () => {
  const outcome = await weft('network ls', { WEFT_CONTROL: '127.0.0.1:1' })
  assert.equal(outcome.code, 5)
  assert.match(outcome.stderr, /127\.0\.0\.1:1/)
})

test('without a control server it says how to name one', async () => {
  const outcome = await weft('network ls', {
    WEFT_CONTROL: undefined,
    WEFT_CONTEXT: emptyContext(),
  })
  assert.equal(outcome.code, 2)
  assert.match(outcome.stderr, /WEFT_CONTROL=HOST:PORT/)
})

test('with -o json an error is one JSON object on standard error', async () => {
  const { code, stderr, stdout } = await weft('network show nowhere -o json')
  assert.equal(code, 3)
  assert.equal(stdout, '')
  const { error } = JSON.parse(stderr)
  assert.equal(error.code, 'network-not-found')
  assert.equal(error.facts.network, 'nowhere')
  assert.match(error.remedy, /weft network ls/)
})

test('a file with several objects is applied, and applying it again changes nothing', async () => {
  const file = write(
    'two.yaml',
    'kind: network\nname: a\nprefixes: [10.1.0.0/16]\n---\nkind: network\nname: b\nprefixes: [10.2.0.0/16]\n',
  )
  assert.match(
    (await weft(`apply -f ${file}`)).stdout,
    /default\/a +created[^]*default\/b +created/,
  )
  assert.match(
    (await weft(`apply -f ${file}`)).stdout,
    /default\/a +unchanged[^]*default\/b +unchanged/,
  )
  const other = write('other.yaml', 'kind: network\nname: a\nprefixes: [10.9.0.0/16]\n')
  const outcome = await weft(`apply -f ${other}`)
  assert.equal(outcome.code, 2)
  assert.match(
    outcome.stderr,
    /it is there with prefixes \["10\.1\.0\.0\/16"\], not \["10\.9\.0\.0\/16"\]/,
  )
  await weft('network rm a')
  await weft('network rm b')
})

test('a broken file names line and column, and nothing of it is done', async () => {
  const file = write(
    'broken.yaml',
    'kind: network\nname: a\nprefixes: [10.1.0.0/16]\n---\nkind: network\nname: [\n',
  )
  const outcome = await weft(`apply -f ${file}`)
  assert.equal(outcome.code, 2)
  assert.match(outcome.stderr, /broken\.yaml:\d+:\d+ is not valid YAML/)
  assert.equal((await weft('network show a')).code, 3)
})

test('broken JSON names line and column too', async () => {
  const file = write('broken.json', '{\n  "kind": "network",\n  "name" "a"\n}\n')
  assert.match((await weft(`apply -f ${file}`)).stderr, /broken\.json:3:\d+ is not valid/)
})

test('there are colours on a terminal only, and not where NO_COLOR asks for none', async () => {
  const ESCAPE = '\x1b['
  assert(!(await weft('tenant ls')).stdout.includes(ESCAPE))
  assert((await weft('tenant ls', {}, true)).stdout.includes(ESCAPE))
  assert(!(await weft('tenant ls', { NO_COLOR: '1' }, true)).stdout.includes(ESCAPE))
})

test('every command has a description, help with an example, and describes its options', () => {
  const program = createProgram(ioOf({}, false).io, () => async () => undefined)
  const leaves = leavesOf(program).filter((leaf) => !['complete', 'help'].includes(leaf.name()))
  assert(leaves.length > 30)
  for (const leaf of leaves) {
    const path = `${leaf.parent?.name()} ${leaf.name()}`
    assert.notEqual(leaf.description(), '', path)
    let text = ''
    leaf.configureOutput({ writeOut: (part) => (text += part) }).outputHelp()
    assert.match(text, /Example/, path)
    for (const option of leaf.options)
      assert.notEqual(option.description, '', `${path} ${option.flags}`)
  }
})

test('exit codes are documented', async () => {
  const { stdout, code } = await weft('help exit-codes')
  assert.equal(code, 0)
  for (const number of [0, 1, 2, 3, 4, 5, 6, 7])
    assert.match(stdout, new RegExp(`^  ${number}  \\S`, 'm'))
})

test('commands, options and choices are completed', async () => {
  assert.deepEqual(await completed('net'), ['network'])
  assert.deepEqual(await completed('network', ''), ['create', 'ls', 'show', 'rm'])
  assert.deepEqual(await completed('network', 'create', '--pre'), ['--prefix'])
  assert.deepEqual(await completed('network', 'ls', '-o', 'j'), ['json'])
  // What it has no names for is left to the shell, which offers files.
  assert.deepEqual(await completed('lab', 'up', '--topology', ''), [])
})

/** What prints the candidates for `$LINE`, by the script in `$SCRIPT`; zsh takes completions only where a line is edited, so its part is played. */
const SHELLS = {
  bash: [
    '-c',
    'source "$SCRIPT"; IFS=" " read -ra COMP_WORDS <<< "$LINE"; [[ $LINE == *" " ]] && COMP_WORDS+=(""); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _weft; printf "%s\\n" "${COMPREPLY[@]}"',
  ],
  zsh: [
    '-fc',
    'compdef() { [[ "$*" == "_weft weft" ]] }; compadd() { shift; print -rl -- "$@" }; source "$SCRIPT"; words=("${(@s: :)LINE}"); CURRENT=$#words; _weft',
  ],
  fish: ['--no-config', '-c', 'source $SCRIPT; complete -C "$LINE"'],
} as const

for (const [shell, argv] of Object.entries(SHELLS)) {
  test(`${shell} completes with the script that is printed for it`, {
    skip: spawnSync(shell, ['--version']).error ? `${shell} is not installed` : false,
  }, async () => {
    const script = write(`completion.${shell}`, (await weft(`completion ${shell}`)).stdout)
    const complete = (line: string): string[] => {
      const { stdout, stderr } = spawnSync(shell, argv, {
        cwd: folder,
        encoding: 'utf8',
        env: {
          PATH: `${PROGRAMS}:${process.env['PATH']}`,
          HOME: folder,
          SCRIPT: script,
          LINE: line,
        },
      })
      assert.equal(stderr, '')
      return stdout.split('\n').filter(Boolean).toSorted()
    }
    assert.deepEqual(complete('weft net'), ['network'])
    assert.deepEqual(complete('weft network '), ['create', 'ls', 'rm', 'show'])
    assert.deepEqual(complete('weft network create --pre'), ['--prefix'])
    assert.deepEqual(complete('weft network ls -o '), ['json', 'table', 'yaml'])
  })
}

test('a completion script is printed for each shell, and no other', async () => {
  for (const shell of ['bash', 'zsh', 'fish'])
    assert.match((await weft(`completion ${shell}`)).stdout, /weft complete/)
  assert.equal((await weft('completion csh')).code, 2)
})

test('doctor names each feature that the kernel lacks, with the way out, and ends with 7', async () => {
  const shuttle = shuttleThat(`cat <<'END'
{"kernel": "5.10.0", "complete": false, "features": [
{"name": "bpf", "present": true, "required": true, "detail": "load programs"},
{"name": "tcx", "present": false, "required": true, "detail": "attach classifiers by links: needs Linux 6.6"},
{"name": "jit", "present": false, "required": false, "detail": "run programs fast: it is off"}]}
END
exit 69`)
  const { code, stdout } = await weft(`doctor --shuttle ${shuttle}`)
  assert.equal(code, 7)
  assert.match(stdout, /^bpf +ok +load programs$/m)
  assert.match(stdout, /^tcx +missing +attach classifiers by links: needs Linux 6\.6$/m)
  assert.match(stdout, /^jit +absent +run programs fast: it is off$/m)
  const checks = JSON.parse((await weft(`doctor --shuttle ${shuttle} -o json`)).stdout)
  assert.deepEqual(checks.at(-2), {
    name: 'tcx',
    present: false,
    required: true,
    detail: 'attach classifiers by links: needs Linux 6.6',
  })
})

test('doctor ends with 0 where only what is not required is absent', {
  skip: process.getuid?.() === 0 ? false : 'needs root',
}, async () => {
  const shuttle = shuttleThat(
    `echo '{"features": [{"name": "jit", "present": false, "required": false, "detail": ""}]}'`,
  )
  const { code, stdout } = await weft(`doctor --shuttle ${shuttle}`)
  assert.equal(code, 0, stdout)
})

test('doctor says why a shuttle does not run, and goes on with the rest', async () => {
  const dumb = await weft(`doctor --shuttle ${shuttleThat('echo no such library >&2; exit 127')}`)
  assert.equal(dumb.code, 7)
  assert.match(dumb.stdout, /^shuttle +missing +\S+ does not run: no such library$/m)
  const missing = await weft('doctor --shuttle /nowhere/weft-shuttle')
  assert.equal(missing.code, 7)
  assert.match(missing.stdout, /^shuttle +missing +\S+ does not run: .*ENOENT/m)
  assert.match(missing.stdout, /^iproute2 /m)
})

test('doctor and a lab name root as what is missing', async (context) => {
  context.mock.method(process as { getuid(): number }, 'getuid', () => 1000)
  const doctor = await weft(`doctor --shuttle ${shuttleThat(`echo '{"features": []}'`)}`)
  assert.equal(doctor.code, 7)
  assert.match(doctor.stdout, /^root +missing +run it as root/m)
  const lab = await weft('lab up')
  assert.equal(lab.code, 7)
  assert.equal(lab.stderr, 'error: a lab needs root\ntry: run it as root, for example with sudo\n')
})

interface Outcome {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

async function weft(
  line: string,
  env: NodeJS.ProcessEnv = {},
  isTerminal = false,
): Promise<Outcome> {
  return await run(line.split(' '), env, isTerminal)
}

async function completed(...words: string[]): Promise<string[]> {
  return (await run(['complete', '--', ...words], {}, false)).stdout.split('\n').filter(Boolean)
}

async function run(argv: string[], env: NodeJS.ProcessEnv, isTerminal: boolean): Promise<Outcome> {
  const { io, outcome } = ioOf(
    {
      WEFT_CONTROL: control.address,
      WEFT_IDENTITY: join(folder, 'owner'),
      ...env,
    },
    isTerminal,
  )
  const code = await runCli(argv, io)
  return { code, ...outcome() }
}

function ioOf(env: NodeJS.ProcessEnv, isTerminal: boolean) {
  let stdout = ''
  let stderr = ''
  const io: Io = {
    stdout: (text) => {
      stdout += text
    },
    stderr: (text) => {
      stderr += text
    },
    env: { WEFT_CONTEXT: emptyContext(), ...env },
    isTerminal,
    isErrorTerminal: isTerminal,
    columns: 100,
    isInputTerminal: isTerminal,
    readInput: async () => '',
    ask: async () => '',
  }
  return { io, outcome: () => ({ stdout, stderr }) }
}

/** So that no lab that happens to run is found. */
function emptyContext(): string {
  return write('context.json', '{"hosts": {"alpha": "unix:/nowhere/host.sock"}}')
}

/** A program in the shuttle's place. */
function shuttleThat(script: string): string {
  const path = write(`shuttle-${crypto.randomUUID()}`, `#!/bin/sh\n${script}\n`)
  chmodSync(path, 0o755)
  return path
}

function write(name: string, text: string): string {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

function leavesOf(command: ReturnType<typeof createProgram>): ReturnType<typeof createProgram>[] {
  return command.commands.length === 0 ? [command] : command.commands.flatMap(leavesOf)
}
