import { InvalidConfigError } from '@weft/errors'

/** Environment variables as a process gets them. */
export interface Environment {
  readonly [name: string]: string | undefined
}

/** `help` is shown by `--help`. A variable without a default must be set, unless it is optional. */
export interface VariableOptions<T> {
  readonly help: string
  readonly default?: T
  readonly optional?: boolean
}

/** Where a server listens or a client connects: `host:port`, `[v6]:port` or `unix:/path`. */
export type Address = string

export interface Variable {
  readonly name: string
  readonly type: string
  readonly help: string
  readonly default: string | undefined
  readonly isRequired: boolean
}

type Value<T, O> = O extends { readonly optional: true } ? T | undefined : T

/** Parses a text, or says what it should have been. */
type Parse<T> = (text: string) => T | Problem

class Problem {
  readonly text: string
  constructor(text: string) {
    this.text = text
  }
}

/** Reads one variable after the other and remembers what is wrong with them; used through `readEnv`. */
export class EnvReader {
  readonly #environment: Environment
  readonly #problems: string[] = []
  readonly #variables: Variable[] = []

  constructor(environment: Environment) {
    this.#environment = environment
  }

  get problems(): readonly string[] {
    return this.#problems
  }

  get variables(): readonly Variable[] {
    return this.#variables
  }

  text<O extends VariableOptions<string>>(name: string, options: O): Value<string, O> {
    return this.#read(name, 'text', options, (text) => text, '')
  }

  /** A whole number within bounds. */
  integer<O extends VariableOptions<number> & { readonly min?: number; readonly max?: number }>(
    name: string,
    options: O,
  ): Value<number, O> {
    const { min = 0, max = Number.MAX_SAFE_INTEGER } = options
    const range = max === Number.MAX_SAFE_INTEGER ? `from ${min}` : `${min} to ${max}`
    return this.#read(name, `integer ${range}`, options, (text) => integerIn(text, min, max), 0)
  }

  /** `true` or `false`. */
  boolean<O extends VariableOptions<boolean>>(name: string, options: O): Value<boolean, O> {
    return this.#read(name, 'true or false', options, parseBoolean, false)
  }

  /** A duration with its unit, for example `250ms`, `5s`, `2m`, `1h`; in milliseconds. */
  durationMs<O extends VariableOptions<number>>(name: string, options: O): Value<number, O> {
    return this.#read(name, 'duration', options, parseDuration, 0, (value) => `${value}ms`)
  }

  /** A size with its unit, for example `512B`, `64KiB`, `8MiB`, `1GiB`; in bytes. */
  sizeBytes<O extends VariableOptions<number>>(name: string, options: O): Value<number, O> {
    return this.#read(name, 'size', options, parseSize, 0, (value) => `${value}B`)
  }

  /** `host:port`, `[v6]:port` or `unix:/absolute/path`. */
  address<O extends VariableOptions<Address>>(name: string, options: O): Value<Address, O> {
    return this.#read(name, 'host:port or unix:/path', options, parseAddress, '')
  }

  /** Addresses with commas between, at least one. */
  addresses<O extends VariableOptions<readonly Address[]>>(
    name: string,
    options: O,
  ): Value<readonly Address[], O> {
    return this.#read(
      name,
      'addresses with commas between',
      options,
      (text) => parseList(text, parseAddress),
      [],
    )
  }

  /** `unix:/absolute/path`, where nothing but the mode of the socket keeps anybody out. */
  socket<O extends VariableOptions<Address>>(name: string, options: O): Value<Address, O> {
    return this.#read(name, 'unix:/path', options, parseSocket, '')
  }

  /** Unix sockets with commas between, at least one. */
  sockets<O extends VariableOptions<readonly Address[]>>(
    name: string,
    options: O,
  ): Value<readonly Address[], O> {
    return this.#read(
      name,
      'unix:/paths with commas between',
      options,
      (text) => parseList(text, parseSocket),
      [],
    )
  }

  /** A URL with one of the schemes, for example `['nats', 'tls']`. */
  url<O extends VariableOptions<string> & { readonly schemes: readonly string[] }>(
    name: string,
    options: O,
  ): Value<string, O> {
    const { schemes } = options
    return this.#read(name, `${schemes.join(' or ')} URL`, options, (t) => parseUrl(t, schemes), '')
  }

  /** URLs with commas between, at least one. */
  urls<O extends VariableOptions<readonly string[]> & { readonly schemes: readonly string[] }>(
    name: string,
    options: O,
  ): Value<readonly string[], O> {
    const { schemes } = options
    return this.#read(
      name,
      `${schemes.join(' or ')} URLs with commas between`,
      options,
      (text) => parseList(text, (item) => parseUrl(item, schemes)),
      [],
    )
  }

  /** An absolute path. */
  path<O extends VariableOptions<string>>(name: string, options: O): Value<string, O> {
    return this.#read(
      name,
      'absolute path',
      options,
      (text) => (text.startsWith('/') ? text : new Problem('is not an absolute path')),
      '',
    )
  }

  oneOf<const T extends string, O extends VariableOptions<NoInfer<T>>>(
    name: string,
    values: readonly [T, ...T[]],
    options: O,
  ): Value<T, O> {
    const type = `one of ${values.join(', ')}`
    return this.#read(
      name,
      type,
      options,
      (text) => values.find((value) => value === text) ?? new Problem(`is not ${type}`),
      values[0],
    )
  }

  /** `placeholder` stands for a value that is wrong until all are read; then it is thrown away with all others. */
  #read<T, O extends VariableOptions<T>>(
    name: string,
    type: string,
    options: O,
    parse: Parse<T>,
    placeholder: NoInfer<T>,
    show: (value: T) => string = String,
  ): Value<T, O> {
    const { default: byDefault, help, optional = false } = options
    const isRequired = byDefault === undefined && !optional
    this.#variables.push({
      name,
      type,
      help,
      default: byDefault === undefined ? undefined : show(byDefault),
      isRequired,
    })
    const text = this.#environment[name]?.trim()
    if (text === undefined || text === '') {
      if (isRequired) this.#problems.push(`${name} is not set: ${help} (${type})`)
      return (isRequired ? placeholder : byDefault) as Value<T, O>
    }
    const value = parse(text)
    if (!(value instanceof Problem)) return value
    this.#problems.push(`${name}=${JSON.stringify(text)} ${value.text}`)
    return placeholder
  }
}

/** Reads a configuration. Throws `InvalidConfigError` with every mistake at once. */
export function readEnv<C>(environment: Environment, read: (reader: EnvReader) => C): C {
  const reader = new EnvReader(environment)
  const config = read(reader)
  if (reader.problems.length > 0) throw new InvalidConfigError(reader.problems)
  return config
}

function integerIn(text: string, min: number, max: number): number | Problem {
  if (!/^-?[0-9]+$/.test(text)) return new Problem('is not a whole number')
  const value = Number(text)
  return value < min || value > max ? new Problem(`is outside ${min} to ${max}`) : value
}

function parseBoolean(text: string): boolean | Problem {
  if (text === 'true') return true
  return text === 'false' ? false : new Problem('is neither true nor false')
}

const DURATION_UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1e3, m: 60e3, h: 3600e3 }
const SIZE_UNITS_BYTES: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
}

function parseDuration(text: string): number | Problem {
  return withUnit(text, DURATION_UNITS_MS) ?? new Problem('is no duration such as 250ms, 5s or 2m')
}

function parseSize(text: string): number | Problem {
  return withUnit(text, SIZE_UNITS_BYTES) ?? new Problem('is no size such as 64KiB or 8MiB')
}

function withUnit(text: string, units: Readonly<Record<string, number>>): number | undefined {
  const match = /^([0-9]+(?:\.[0-9]+)?)([a-zA-Z]+)$/.exec(text)
  const unit = match?.[2] === undefined ? undefined : units[match[2]]
  return unit === undefined ? undefined : Number(match?.[1]) * unit
}

function parseAddress(text: string): Address | Problem {
  if (text.startsWith('unix:')) {
    return text.startsWith('unix:/') ? text : new Problem('needs an absolute path after unix:')
  }
  const match = /^(\[[0-9a-fA-F:.]+\]|[^:[\]\s]+):([0-9]{1,5})$/.exec(text)
  if (!match || Number(match[2]) > 65_535) return new Problem('is neither host:port nor unix:/path')
  return text
}

function parseSocket(text: string): Address | Problem {
  if (text.startsWith('unix:')) return parseAddress(text)
  return new Problem('is no unix:/path, and only a unix socket is guarded by its mode')
}

function parseUrl(text: string, schemes: readonly string[]): string | Problem {
  const url = URL.parse(text)
  if (!url) return new Problem('is not a URL')
  return schemes.includes(url.protocol.slice(0, -1))
    ? text
    : new Problem(`is not a ${schemes.join(' or ')} URL`)
}

function parseList<T>(text: string, parse: Parse<T>): readonly T[] | Problem {
  const items: T[] = []
  for (const part of text.split(',')) {
    const item = parse(part.trim())
    if (item instanceof Problem)
      return new Problem(`has ${JSON.stringify(part)}, which ${item.text}`)
    items.push(item)
  }
  return items
}
