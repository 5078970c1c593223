import { BrokenInputError } from '@weft/errors'
import { TenantStatement } from '@weft/proto/weftline/identity/v1/tenant_lock.ts'
import { subjectOf, type TenantWord, wordOf } from './tenant-lock.ts'

/**
 * What the key of a tenant has signed, as its holder has noted it: of each thing the last word. What is proposed is compared
 * with it, for whoever took over config may keep back what was signed before.
 */
export class TenantLedger {
  readonly #last: Map<string, TenantStatement> = new Map()

  /** Reads what `text` gave. @throws BrokenInputError */
  static parse(text: string, source: string): TenantLedger {
    const ledger = new TenantLedger()
    for (const [index, line] of text.split('\n').entries()) {
      if (line === '') continue
      try {
        ledger.note(TenantStatement.decode(Buffer.from(line, 'base64')))
      } catch {
        const problem = 'the line is no statement of a tenant'
        throw new BrokenInputError({
          source,
          format: 'ledger',
          problem,
          line: index + 1,
          column: 1,
        })
      }
    }
    return ledger
  }

  /** A line for each thing: its statement, without a signature, in base64. */
  get text(): string {
    const encoded = (statement: TenantStatement): string =>
      Buffer.from(TenantStatement.encode(statement).finish()).toString('base64')
    return [...this.#last.values()].map((statement) => `${encoded(statement)}\n`).join('')
  }

  note(statement: TenantStatement): void {
    const { domain, tenantId, number, about } = statement
    const word = wordOf(about, number)
    if (!word) throw new TypeError('the statement is about nothing')
    const key = keyOf(domain, tenantId, word)
    const known = this.#last.get(key)
    if (!known || known.number < number) this.#last.set(key, statement)
  }

  /** The last word about what `word` is about. */
  last(
    domain: string,
    tenantId: number,
    word: TenantWord,
  ): { readonly word: TenantWord; readonly number: bigint } | undefined {
    const statement = this.#last.get(keyOf(domain, tenantId, word))
    const before = statement && wordOf(statement.about, statement.number)
    return before && { word: before, number: statement.number }
  }
}

function keyOf(domain: string, tenantId: number, word: TenantWord): string {
  return `${domain} ${tenantId} ${subjectOf(word)}`
}
