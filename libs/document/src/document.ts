import { BrokenInputError } from '@weft/errors'
import { type Document, isNode, LineCounter, parseAllDocuments } from 'yaml'
import type { z } from 'zod'

/** A path into a document, as zod and yaml write it. */
export type DocumentPath = readonly PropertyKey[]

/** A mistake that a schema cannot see, for example a name that nothing has. */
export interface Mistake {
  readonly path: DocumentPath
  readonly message: string
}

/**
 * Reads the documents of a YAML stream (JSON is YAML), each by the same schema.
 * @param source names the text in errors: a file name or `standard input`
 * @param findMistakes checks each document further once the schema fits
 * @throws BrokenInputError with the place of every mistake
 */
export function readDocuments<Schema extends z.ZodType>(
  text: string,
  source: string,
  schema: Schema,
  findMistakes: (value: z.output<Schema>) => readonly Mistake[] = () => [],
): z.output<Schema>[] {
  const lines = new LineCounter()
  const documents = parseAllDocuments(text, { lineCounter: lines })
  const list = 'empty' in documents ? [] : documents
  return list.map((document) => {
    const broken = document.errors[0]
    if (broken !== undefined) {
      const { line, col } = lines.linePos(broken.pos[0])
      const problem = broken.message.split(/ at line \d+/)[0] ?? broken.message
      throw new BrokenInputError({ source, format: formatOf(text), problem, line, column: col })
    }
    const parsed = schema.safeParse(document.toJS())
    const mistakes = parsed.success ? findMistakes(parsed.data) : parsed.error.issues
    if (parsed.success && mistakes.length === 0) return parsed.data
    throw brokenBy(mistakes, source, (path) => placeOf(document, lines, path))
  })
}

/** Reads a text that is one document. */
export function readDocument<Schema extends z.ZodType>(
  text: string,
  source: string,
  schema: Schema,
  findMistakes?: (value: z.output<Schema>) => readonly Mistake[],
): z.output<Schema> {
  const [document, ...others] = readDocuments(text, source, schema, findMistakes)
  if (document === undefined || others.length > 0) {
    const problem = document === undefined ? 'it is empty' : 'it has more than one document'
    throw new BrokenInputError({ source, format: formatOf(text), problem })
  }
  return document
}

function brokenBy(
  mistakes: readonly Mistake[],
  source: string,
  place: (path: DocumentPath) => { line: number; col: number },
): BrokenInputError {
  const format = 'input'
  const [only, ...others] = mistakes
  const say = ({ path, message }: Mistake): string =>
    path.length === 0 ? message : `${path.map(String).join('.')}: ${message}`
  if (only !== undefined && others.length === 0) {
    const { line, col } = place(only.path)
    return new BrokenInputError({ source, format, problem: say(only), line, column: col })
  }
  const problem = mistakes.map((mistake) => {
    const { line, col } = place(mistake.path)
    return `\n  ${line}:${col} ${say(mistake)}`
  })
  return new BrokenInputError({ source, format, problem: problem.join('') })
}

/** Where a path is. A missing field has no place of its own: that of the nearest thing around it serves. */
function placeOf(
  document: Document.Parsed,
  lines: LineCounter,
  path: DocumentPath,
): { line: number; col: number } {
  for (let length = path.length; length > 0; length--) {
    const node = document.getIn(path.slice(0, length), true)
    if (isNode(node) && node.range) return lines.linePos(node.range[0])
  }
  return lines.linePos(document.contents?.range[0] ?? 0)
}

function formatOf(text: string): string {
  return /^\s*[[{]/.test(text) ? 'JSON or YAML' : 'YAML'
}
