import { WeftError } from './weft-error.ts'

/** Nobody answers; nothing was changed, or the change is safe to repeat. */
export class UnavailableError extends WeftError {
  constructor(
    facts: { service: string; address: string; problem?: string; remedy?: string },
    options?: { readonly cause?: unknown },
  ) {
    const problem = facts.problem === undefined ? '' : `: ${facts.problem}`
    super(
      'unavailable',
      `${facts.service} does not answer at ${facts.address}${problem}`,
      facts,
      facts.remedy ?? 'see that it runs and can be reached, then try again',
      options,
    )
  }
}

/** A queue is full; nothing was done. */
export class OverloadedError extends WeftError {
  constructor(facts: { what: string; limit: number; retryAfterMs?: number }) {
    super(
      'overloaded',
      `${facts.what} is overloaded: ${facts.limit} are waiting`,
      facts,
      'try again later',
    )
  }
}

export class DeadlineExceededError extends WeftError {
  constructor(facts: { what: string; timeoutMs?: number }) {
    const time = facts.timeoutMs === undefined ? 'in time' : `within ${facts.timeoutMs} ms`
    super(
      'deadline-exceeded',
      `${facts.what} did not finish ${time}`,
      facts,
      'try again; the change may have been made',
    )
  }
}

/** A write may or may not have been made: read, compare the idempotency key, then decide. */
export class UnknownOutcomeError extends WeftError {
  constructor(facts: { what: string; problem: string }, options?: { readonly cause?: unknown }) {
    super(
      'unknown-outcome',
      `${facts.what} may or may not have been made: ${facts.problem}`,
      facts,
      'read what is there before trying again',
      options,
    )
  }
}

export class CancelledError extends WeftError {
  constructor(facts: { what: string }) {
    super('cancelled', `${facts.what} was cancelled`, facts, '')
  }
}

export class NoCommonTrustedZoneError extends WeftError {
  constructor(facts: { source: string; target: string }) {
    super(
      'no-common-trusted-zone',
      `hosts ${facts.source} and ${facts.target} share no trusted zone with addresses of one IP family, and no sealed carrier joins them`,
      facts,
      'see that both hosts have the capability carrier-sealed (weft host show HOST), or give both an address in a common trusted zone',
    )
  }
}

export class EncryptionUnavailableError extends WeftError {
  constructor(facts: { network: string; source: string; target: string }) {
    super(
      'encryption-unavailable',
      `network ${facts.network} demands encryption, and no sealed carrier joins hosts ${facts.source} and ${facts.target}`,
      facts,
      'see that both hosts have the capability carrier-sealed: weft host show HOST',
    )
  }
}

export class DifferentNetworksError extends WeftError {
  constructor(facts: { source: string | number; target: string | number }) {
    super(
      'different-networks',
      `endpoints ${facts.source} and ${facts.target} are on different networks`,
      facts,
      'attach both to one network',
    )
  }
}

/** A host takes no WireGuard clients, because it does not seal. */
export class SealingUnavailableError extends WeftError {
  constructor(facts: { host: string; problem: string }) {
    super(
      'sealing-unavailable',
      `host ${facts.host} takes no WireGuard clients: ${facts.problem}`,
      facts,
      `choose another host with --host, or see what is wrong: weft host show ${facts.host}`,
    )
  }
}

/** Nobody whom the host does not know can reach it. */
export class NoCandidateError extends WeftError {
  constructor(facts: { host: string; problem: string }) {
    super(
      'no-candidate',
      `WireGuard clients find no way to host ${facts.host}: ${facts.problem}`,
      facts,
      `forward a UDP port to it and say which: weft host set ${facts.host} --candidate ADDRESS:PORT; or name an address for this client alone: --endpoint ADDRESS:PORT`,
    )
  }
}

export class PermissionDeniedError extends WeftError {
  /** `reason`: one of few words, for counting. */
  constructor(facts: { what: string; problem?: string; reason?: string; remedy?: string }) {
    const problem = facts.problem === undefined ? '' : `: ${facts.problem}`
    super(
      'permission-denied',
      `${facts.what} is not allowed${problem}`,
      facts,
      facts.remedy ?? 'ask an operator',
    )
  }
}

export class UnauthenticatedError extends WeftError {
  constructor(facts: { what: string }) {
    super('unauthenticated', `${facts.what} needs credentials`, facts, 'give valid credentials')
  }
}

export class NatsTooOldError extends WeftError {
  constructor(facts: { address: string; version: string }) {
    super(
      'nats-too-old',
      `nats-server ${facts.version} at ${facts.address} is too old`,
      facts,
      'run nats-server 2.14.0 or later, or 2.12.7 or a later 2.12',
    )
  }
}

export class PortInUseError extends WeftError {
  constructor(facts: { address: string; variable?: string }) {
    const setting = facts.variable === undefined ? '' : ` or set ${facts.variable} to another one`
    super(
      'port-in-use',
      `${facts.address} is in use by another process`,
      facts,
      `stop the process that listens there (ss -lp shows it)${setting}`,
    )
  }
}

export class NeedsRootError extends WeftError {
  constructor(facts: { what: string }) {
    super('needs-root', `${facts.what} needs root`, facts, 'run it as root, for example with sudo')
  }
}

export class KernelFeatureMissingError extends WeftError {
  constructor(facts: { features: readonly string[] }) {
    super(
      'kernel-feature-missing',
      `the kernel lacks ${facts.features.join(', ')}`,
      facts,
      'see feature by feature with: weft doctor',
    )
  }
}

export class ToolMissingError extends WeftError {
  constructor(facts: { tool: string; remedy: string }) {
    super('tool-missing', `${facts.tool} is not installed`, facts, facts.remedy)
  }
}

export class UnimplementedError extends WeftError {
  constructor(facts: { what: string; remedy?: string }) {
    super('unimplemented', `${facts.what} is not served here`, facts, facts.remedy ?? '')
  }
}

/** A defect of ours. */
export class InternalError extends WeftError {
  constructor(message: string, options?: { readonly cause?: unknown }) {
    super('internal', message, {}, 'report it, with the logs of the service', options)
  }
}
