export { describeVariables, formatVariables } from './help.ts'
export {
  type Address,
  type Environment,
  EnvReader,
  readEnv,
  type Variable,
  type VariableOptions,
} from './reader.ts'
