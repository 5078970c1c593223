import { InvalidArgumentError } from '@weft/errors'
import type { Decision as DecisionMessage } from '@weft/proto/weftline/routing/v1/routing.ts'
import {
  ConnectionFacts,
  Fact,
  Rule as RuleMessage,
} from '@weft/proto/weftline/routing/v1/routing.ts'
import type { Connection, Decision, Fact as FactName, Rule } from './domain/rule-table.ts'

/** The facts that this version can compare. `FACT_APPLICATION` is not among them. */
const numberOfFact: Readonly<Record<FactName, Fact>> = {
  networkId: Fact.FACT_NETWORK,
  sourceEndpointId: Fact.FACT_SOURCE,
  targetEndpointId: Fact.FACT_TARGET,
  ipProtocol: Fact.FACT_IP_PROTOCOL,
  sourcePort: Fact.FACT_SOURCE_PORT,
  targetPort: Fact.FACT_TARGET_PORT,
}

const factOfNumber = new Map<Fact, FactName>(
  Object.entries(numberOfFact).map(([name, number]) => [number, name as FactName]),
)

/** @throws InvalidArgumentError: one of the three that make the flow key is missing. */
export function connectionFromMessage(facts: ConnectionFacts): Connection {
  const missing =
    (facts.networkId === 0 && 'network_id') ||
    (facts.sourceEndpointId === 0 && 'source_endpoint_id') ||
    (facts.targetEndpointId === 0 && 'target_endpoint_id')
  if (missing) throw new InvalidArgumentError({ field: missing, problem: 'it is not set' })
  return facts
}

export function decisionToMessage({ protocol, rule, dependsOn }: Decision): DecisionMessage {
  return {
    protocol,
    rule,
    dependsOn: dependsOn.map((fact) => numberOfFact[fact]),
    error: undefined,
  }
}

/** @throws InvalidArgumentError: the rule has no name or no protocol, or depends on a fact that this version cannot compare. */
export function ruleFromMessage(message: RuleMessage): Rule {
  if (message.name === '') throw new InvalidArgumentError({ field: 'name', problem: 'it is empty' })
  if (message.protocol === '') {
    throw new InvalidArgumentError({ field: 'protocol', problem: 'it is empty' })
  }
  return {
    name: message.name,
    networkId: message.networkId,
    order: message.order,
    match: message.match ?? ConnectionFacts.create(),
    dependsOn: message.dependsOn.map(factFromMessage),
    protocol: message.protocol,
  }
}

export function ruleToMessage(rule: Rule): RuleMessage {
  return RuleMessage.create({
    ...rule,
    match: ConnectionFacts.create(rule.match),
    dependsOn: rule.dependsOn.map((fact) => numberOfFact[fact]),
  })
}

function factFromMessage(number: Fact): FactName {
  const fact = factOfNumber.get(number)
  if (fact !== undefined) return fact
  const remedy = 'update routing-policy, or leave the fact out'
  throw new InvalidArgumentError({
    field: 'depends_on',
    problem: `fact ${number} cannot be compared by this version`,
    remedy,
  })
}
