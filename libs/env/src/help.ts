import { EnvReader, type Variable } from './reader.ts'

/** Every variable that `read` asks for, in its order. */
export function describeVariables(read: (reader: EnvReader) => unknown): readonly Variable[] {
  const reader = new EnvReader({})
  read(reader)
  return reader.variables
}

/** The variables as text for `--help`. */
export function formatVariables(variables: readonly Variable[]): string {
  return variables
    .map(({ name, type, help, default: byDefault, isRequired }) => {
      const absent = isRequired ? 'required' : byDefault ? `default ${byDefault}` : 'optional'
      return `  ${name}\n      ${help} (${type}; ${absent})`
    })
    .join('\n')
}
