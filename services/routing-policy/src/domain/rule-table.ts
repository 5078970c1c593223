/** What a rule may look at. A miss that does not say something about its connection has 0 there. */
export interface Connection {
  readonly networkId: number
  readonly sourceEndpointId: number
  readonly targetEndpointId: number
  readonly ipProtocol: number
  readonly sourcePort: number
  readonly targetPort: number
}

export type Fact = keyof Connection

/** All facts, in the order in which a decision lists them. */
export const facts: readonly Fact[] = [
  'networkId',
  'sourceEndpointId',
  'targetEndpointId',
  'ipProtocol',
  'sourcePort',
  'targetPort',
]

export interface Rule {
  readonly name: string
  /** 0 for every network. */
  readonly networkId: number
  /** Smaller ones are tried first; equal ones in the order of their names. */
  readonly order: number
  /** The values to agree with, in the facts of `dependsOn`. */
  readonly match: Connection
  readonly dependsOn: readonly Fact[]
  readonly protocol: string
}

/** One decision covers every connection that agrees with it in `dependsOn`. */
export interface Decision {
  readonly protocol: string
  readonly rule: string
  readonly dependsOn: readonly Fact[]
}

/** What holds where no other rule matches. Its facts are the flow key, on which every decision depends. */
export const defaultRule: Rule = {
  name: 'default',
  networkId: 0,
  order: 2 ** 32 - 1,
  match: {
    networkId: 0,
    sourceEndpointId: 0,
    targetEndpointId: 0,
    ipProtocol: 0,
    sourcePort: 0,
    targetPort: 0,
  },
  dependsOn: ['networkId', 'sourceEndpointId', 'targetEndpointId'],
  protocol: 'shortest-path',
}

const bitOf: Record<Fact, number> = {
  networkId: 1,
  sourceEndpointId: 2,
  targetEndpointId: 4,
  ipProtocol: 8,
  sourcePort: 16,
  targetPort: 32,
}

/** The facts of every set of them, by bit set, so that decisions share their arrays. */
const factsOfSet = Array.from({ length: 1 << facts.length }, (_, set) =>
  facts.filter((fact) => set & bitOf[fact]),
)

const flowKeySet = defaultRule.dependsOn.reduce((set, fact) => set | bitOf[fact], 0)

/** The rules by network, kept in the order in which they are tried. */
export class RuleTable {
  readonly #rules = new Map<string, Rule>()
  readonly #byNetwork = new Map<number, Rule[]>()

  /** Adds or replaces the rule that is stored under `key`. Returns the networks whose answers may differ now, 0 for all. */
  put(key: string, rule: Rule): number[] {
    const changed = this.delete(key)
    this.#rules.set(key, rule)
    const rules = this.#byNetwork.get(rule.networkId) ?? []
    rules.push(rule)
    rules.sort(compareRules)
    this.#byNetwork.set(rule.networkId, rules)
    return changed.includes(rule.networkId) ? changed : [...changed, rule.networkId]
  }

  /** Removes the rule that is stored under `key`, if there is one. Returns like `put`. */
  delete(key: string): number[] {
    const rule = this.#rules.get(key)
    if (rule === undefined) return []
    this.#rules.delete(key)
    const rest = this.#byNetwork.get(rule.networkId)?.filter((other) => other !== rule) ?? []
    if (rest.length === 0) this.#byNetwork.delete(rule.networkId)
    else this.#byNetwork.set(rule.networkId, rest)
    return [rule.networkId]
  }

  get size(): number {
    return this.#rules.size
  }

  /** The whole table in the order in which it is tried, network by network, those for every network and the default last. */
  list(): Rule[] {
    const networkIds = [...this.#byNetwork.keys()].filter((id) => id !== 0).sort((a, b) => a - b)
    return [...networkIds, 0].flatMap((id) => this.#byNetwork.get(id) ?? []).concat(defaultRule)
  }

  /**
   * Tries the rules of the connection's network, then those for every network. The decision depends on the flow key
   * and on every fact that was compared on the way, up to the first that differed in each rule: another connection
   * that agrees in these is led along the same way to the same rule.
   */
  decide(connection: Connection): Decision {
    let lookedAt = flowKeySet
    for (const rules of [this.#byNetwork.get(connection.networkId), this.#byNetwork.get(0)]) {
      nextRule: for (const rule of rules ?? []) {
        for (const fact of rule.dependsOn) {
          lookedAt |= bitOf[fact]
          if (rule.match[fact] !== connection[fact]) continue nextRule
        }
        return decision(rule, lookedAt)
      }
    }
    return decision(defaultRule, lookedAt)
  }
}

function decision({ protocol, name }: Rule, lookedAt: number): Decision {
  return { protocol, rule: name, dependsOn: factsOfSet[lookedAt] ?? facts }
}

function compareRules(a: Rule, b: Rule): number {
  return a.order - b.order || (a.name < b.name ? -1 : Number(a.name > b.name))
}
