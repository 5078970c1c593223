import { WeftError } from './weft-error.ts'

/** A field of a request that is wrong in a way that no other class names. */
export class InvalidArgumentError extends WeftError {
  constructor(facts: { field: string; problem: string; remedy?: string }) {
    super('invalid-argument', `${facts.field}: ${facts.problem}`, facts, facts.remedy ?? '')
  }
}

export class InvalidNameError extends WeftError {
  /** `problem` as `nameProblem` of `@weft/net` says it. */
  constructor(facts: { kind: string; name: string; problem: string }) {
    const shown = facts.name.length > 80 ? `${facts.name.slice(0, 80)}…` : facts.name
    super(
      'invalid-name',
      `${facts.kind} name ${JSON.stringify(shown)} is not valid: ${facts.problem}`,
      { ...facts, name: shown },
      'use up to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit',
    )
  }
}

export class InvalidAddressError extends WeftError {
  constructor(facts: { address: string; problem?: string }) {
    super(
      'invalid-address',
      `${JSON.stringify(facts.address)} is not a usable IP address${because(facts.problem)}`,
      facts,
      'give an address such as 10.20.0.11 or fd20::11',
    )
  }
}

export class InvalidPrefixError extends WeftError {
  constructor(facts: { prefix: string; problem?: string; suggestion?: string }) {
    super(
      'invalid-prefix',
      `${JSON.stringify(facts.prefix)} is not a usable IP prefix${because(facts.problem)}`,
      facts,
      `give a prefix such as ${facts.suggestion ?? '10.20.0.0/16 or fd20::/64'}`,
    )
  }
}

export class InvalidMacError extends WeftError {
  constructor(facts: { mac: string; problem?: string }) {
    super(
      'invalid-mac',
      `${JSON.stringify(facts.mac)} is not a usable MAC address${because(facts.problem)}`,
      facts,
      'give six octets such as 02:00:00:00:00:0b, the first one even, or leave it out',
    )
  }
}

export class InvalidMtuError extends WeftError {
  constructor(facts: { mtuBytes: number; minBytes: number; maxBytes: number }) {
    super(
      'invalid-mtu',
      `an MTU of ${facts.mtuBytes} bytes is outside ${facts.minBytes} to ${facts.maxBytes}`,
      facts,
      `choose ${facts.minBytes} to ${facts.maxBytes} bytes, or leave it out`,
    )
  }
}

export class InvalidVniError extends WeftError {
  constructor(facts: { vni: number; max: number }) {
    super(
      'invalid-vni',
      `VNI ${facts.vni} is outside 1 to ${facts.max}`,
      facts,
      `choose 1 to ${facts.max}, or leave it out`,
    )
  }
}

/** Configuration of a process: every mistake at once. */
export class InvalidConfigError extends WeftError {
  constructor(problems: readonly string[]) {
    const count = problems.length === 1 ? 'a mistake' : `${problems.length} mistakes`
    super(
      'invalid-config',
      `${count} in the configuration:\n${problems.map((problem) => `  ${problem}`).join('\n')}`,
      { problems },
      'start with --help to see every variable',
    )
  }
}

export class PrefixOverlapError extends WeftError {
  constructor(facts: { prefix: string; other: string; network: string }) {
    super(
      'prefix-overlap',
      `prefixes ${facts.prefix} and ${facts.other} of network ${facts.network} overlap`,
      facts,
      'prefixes of one network must not overlap; other networks may use the same ones',
    )
  }
}

export class AddressOutsidePrefixError extends WeftError {
  constructor(facts: { address: string; network: string; prefixes: readonly string[] }) {
    super(
      'address-outside-prefix',
      `address ${facts.address} is outside network ${facts.network}`,
      facts,
      `choose an address of ${facts.prefixes.join(' or ')}, or leave it out`,
    )
  }
}

export class AddressReservedError extends WeftError {
  /** `use` is what the address is kept for, for example `gateway, DHCP and DNS`. */
  constructor(facts: { address: string; network: string; use: string }) {
    super(
      'address-reserved',
      `address ${facts.address} of network ${facts.network} is reserved for ${facts.use}`,
      facts,
      'choose another address, or leave it out',
    )
  }
}

export class AmbiguousNameError extends WeftError {
  constructor(facts: { kind: string; name: string; candidates: readonly string[] }) {
    super(
      'ambiguous-name',
      `${facts.kind} ${facts.name} is ambiguous: ${facts.candidates.join(', ')}`,
      facts,
      `name it in full, for example ${facts.candidates[0] ?? facts.name}`,
    )
  }
}

/** Text that does not parse. Line and column count from 1. */
export class BrokenInputError extends WeftError {
  constructor(facts: {
    source: string
    format: string
    problem: string
    line?: number
    column?: number
  }) {
    const place = facts.line === undefined ? '' : `:${facts.line}:${facts.column ?? 1}`
    super(
      'broken-input',
      `${facts.source}${place} is not valid ${facts.format}: ${facts.problem}`,
      facts,
      facts.line === undefined ? 'correct the input' : `correct line ${facts.line}`,
    )
  }
}

export class MessageTooLargeError extends WeftError {
  /** `sizeBytes` is left out where the transport does not tell it. */
  constructor(facts: { what: string; sizeBytes?: number; limitBytes: number }) {
    const size = facts.sizeBytes === undefined ? 'is' : `has ${facts.sizeBytes} bytes,`
    super(
      'message-too-large',
      `${facts.what} ${size} larger than the limit of ${facts.limitBytes} bytes`,
      facts,
      'send less at once',
    )
  }
}

function because(problem: string | undefined): string {
  return problem === undefined ? '' : `: ${problem}`
}
