import { WeftError } from './weft-error.ts'

/** Why a certificate does not prove who its holder is, with what to say about it. */
export const certificateRefusals = {
  malformed: 'it is no X.509 certificate',
  're-encoded': 'its bytes are not the DER encoding (X.690) that the authority signed',
  expired: 'it has expired',
  'not-yet-valid': 'it is not valid yet',
  'unknown-authority': 'no authority of this domain issued it',
  'bad-signature': 'its signature is not that of its issuer',
  'not-a-leaf': 'it is an authority, not a member of the domain',
  'wrong-key-type': 'its key or signature is not Ed25519',
  'wrong-usage': 'it may not be used for this',
  'no-identity': 'it names no identity',
  'several-identities': 'it names more than one identity',
  'wrong-domain': 'it belongs to another domain',
  'path-too-long': 'there are more authorities above it than are allowed',
  'wrong-peer': 'it belongs to somebody else',
  revoked: 'its key was revoked',
  missing: 'there is none',
} as const
export type CertificateRefusal = keyof typeof certificateRefusals

/** A certificate, or the lack of one, does not prove who a peer is. */
export class CertificateRefusedError extends WeftError {
  /**
   * `subject`: whose certificate, for example `the certificate of config`. `problem`: what more there is to say. `remedy`: the way
   * out, where it is another than the reason has.
   */
  constructor(facts: {
    reason: CertificateRefusal
    subject?: string
    problem?: string
    remedy?: string
  }) {
    super(
      'certificate-refused',
      `${facts.subject ?? 'the certificate'} is refused: ${certificateRefusals[facts.reason]}${because(facts.problem)}`,
      facts,
      facts.remedy ?? remedyOfCertificate(facts.reason),
    )
  }

  /** One of `certificateRefusals`, unless a newer peer sent it. */
  get reason(): CertificateRefusal {
    return this.facts['reason'] as CertificateRefusal
  }
}

/** Why a signed statement is not believed, with what to say about it. */
export const statementRefusals = {
  missing: 'there is none',
  'wrong-size': 'its key or signature has the wrong size',
  'too-large': 'it is too large',
  'weak-key': 'its key is no usable Ed25519 key',
  'other-signer': 'somebody else signed it',
  'bad-signature': 'its signature is wrong',
  malformed: 'what was signed is not what was expected',
  outdated: 'it is too old or too new',
} as const
export type StatementRefusal = keyof typeof statementRefusals

/** A signed statement is not believed. */
export class StatementRefusedError extends WeftError {
  /** `purpose`: what the statement was to be, for example `host-row`. */
  constructor(facts: { reason: StatementRefusal; purpose: string; problem?: string }) {
    super(
      'statement-refused',
      `the signed statement (${facts.purpose}) is refused: ${statementRefusals[facts.reason]}${because(facts.problem)}`,
      facts,
      'sign it with the key that belongs to it, for this purpose',
    )
  }

  /** One of `statementRefusals`, unless a newer peer sent it. */
  get reason(): StatementRefusal {
    return this.facts['reason'] as StatementRefusal
  }
}

/** Why a token or login code is refused, with what to say about it. `unknown` is said of a wrong secret as well. */
export const tokenRefusals = {
  'not-a-token': 'this is not the text of one',
  cut: 'a part of the text is missing',
  'too-long': 'there is more than its text',
  'other-version': 'it is of another version',
  'other-purpose': 'it is for something else',
  unknown: 'it was never given out, or is gone',
  expired: 'it has expired',
  used: 'it was used already',
  revoked: 'it was revoked',
  'other-host': 'it is for a host of another name',
} as const
export type TokenRefusal = keyof typeof tokenRefusals

/** A token or login code is refused. Neither message nor facts ever hold its text. */
export class TokenRefusedError extends WeftError {
  constructor(facts: { reason: TokenRefusal; kind: 'join' | 'login'; problem?: string }) {
    const [what, remedy] =
      facts.kind === 'join'
        ? ['join token', 'have a new one made: weft token create']
        : ['login code', 'have a new one made: weft user code']
    super(
      'token-refused',
      `the ${what} is refused: ${tokenRefusals[facts.reason]}${because(facts.problem)}`,
      facts,
      remedy,
    )
  }

  /** One of `tokenRefusals`, unless a newer peer sent it. */
  get reason(): TokenRefusal {
    return this.facts['reason'] as TokenRefusal
  }
}

/** The clock of this machine is so wrong that certificates cannot be judged by it. */
export class ClockWrongError extends WeftError {
  /** Both in milliseconds since 1970: by this machine's clock, and by that which it is compared with. */
  constructor(facts: { hereUnixMs: number; thereUnixMs: number; there: string }) {
    const aheadMs = facts.hereUnixMs - facts.thereUnixMs
    super(
      'clock-wrong',
      `the clock of this machine is ${Math.round(Math.abs(aheadMs) / 1000)} s ${aheadMs < 0 ? 'behind' : 'ahead of'} that of ${facts.there}: it says ${timeOf(facts.hereUnixMs)}, not ${timeOf(facts.thereUnixMs)}`,
      facts,
      'set the clock, for example with: timedatectl set-ntp true',
    )
  }
}

/** A host whose keys were revoked. It never comes back under them. */
export class HostRevokedError extends WeftError {
  constructor(facts: { host: string | number; revokedAtUnixMs?: number }) {
    const since =
      facts.revokedAtUnixMs === undefined ? '' : ` since ${timeOf(facts.revokedAtUnixMs)}`
    super(
      'host-revoked',
      `host ${facts.host} is revoked${since}`,
      facts,
      'remove it (weft host rm), then join it again with new keys and a new token',
    )
  }
}

/** Something of a locked tenant counts only if the tenant's own key says so, and it does not. */
export class TenantLockedError extends WeftError {
  /** `what` does not count, or is not done, because of `problem`. */
  constructor(facts: { tenant: string; what: string; problem: string; remedy?: string }) {
    super(
      'tenant-locked',
      `tenant ${facts.tenant} is locked: ${facts.what}${because(facts.problem)}`,
      facts,
      facts.remedy ?? `have the holder of its key sign: weft tenant sign ${facts.tenant}`,
    )
  }
}

/** A tenant has no key of its own that speaks for it. */
export class TenantNotLockedError extends WeftError {
  constructor(facts: { tenant: string }) {
    super(
      'tenant-not-locked',
      `tenant ${facts.tenant} is not locked`,
      facts,
      `lock it: weft tenant lock ${facts.tenant} --key FILE`,
    )
  }
}

/** Nobody has given this machine or person an identity yet. */
export class NotEnrolledError extends WeftError {
  constructor(facts: { folder: string; who?: 'host' | 'user' | 'service' }) {
    const remedies = {
      host: 'join the domain: weft join',
      user: 'log in: weft login',
      service: 'give the folder that weft init made for the service',
    }
    super(
      'not-enrolled',
      `${facts.folder} holds no identity`,
      facts,
      facts.who === undefined
        ? 'join the domain (weft join) or log in (weft login)'
        : remedies[facts.who],
    )
  }
}

/** A privileged action was not done, because it could not be recorded. */
export class AuditUnavailableError extends WeftError {
  constructor(
    facts: { what: string; problem: string; remedy?: string },
    options?: { readonly cause?: unknown },
  ) {
    super(
      'audit-unavailable',
      `${facts.what} was not done, because it cannot be audited: ${facts.problem}`,
      facts,
      facts.remedy ??
        'see that the audit logs of config can be written (disk, bus), then try again',
      options,
    )
  }
}

function because(problem: string | undefined): string {
  return problem === undefined ? '' : ` (${problem})`
}

/** Also for times that Date cannot tell: a broken clock is what some of these errors are about. */
function timeOf(unixMs: number): string {
  const date = new Date(unixMs)
  return Number.isNaN(date.getTime()) ? `${unixMs} ms since 1970` : date.toISOString()
}

function remedyOfCertificate(reason: CertificateRefusal): string {
  switch (reason) {
    case 'expired':
      return 'renew it; if it should have been renewed already, see that config can be reached'
    case 'not-yet-valid':
      return 'compare the clocks of both machines'
    case 'revoked':
      return 'enrol again with new keys'
    case 'missing':
      return 'join the domain (weft join) or log in (weft login)'
    case 'wrong-peer':
      return 'see that the address is that of the right service'
    default:
      return 'use a certificate that config of this domain issued'
  }
}
