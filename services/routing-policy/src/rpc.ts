import type { World } from '@weft/access'
import { asWeftError, InvalidArgumentError, toWire } from '@weft/errors'
import {
  type ConnectionFacts,
  DecideResponse,
  Decision,
  ListRulesResponse,
  type RoutingServiceService,
} from '@weft/proto/weftline/routing/v1/routing.ts'
import type { Handlers } from '@weft/rpc'
import type { Events } from './events.ts'
import { connectionFromMessage, decisionToMessage, ruleToMessage } from './messages.ts'
import type { Rules } from './subscriptions.ts'

/** Questions of one call. */
const CONNECTIONS_MAX = 256

export function routingHandlers(
  rules: Rules,
  world: World,
  horizonMs: number,
  events: Events,
): Handlers<typeof RoutingServiceService> {
  const decide = (facts: ConnectionFacts): Decision => {
    try {
      const decision = rules.table.decide(connectionFromMessage(facts))
      events.decided(decision.protocol)
      return decisionToMessage(decision)
    } catch (error) {
      events.questionRefused(asWeftError(error))
      return Decision.create({ error: toWire(error) })
    }
  }
  return {
    async decide({ connections }) {
      if (connections.length > CONNECTIONS_MAX) {
        const problem = `${connections.length} at once, at most ${CONNECTIONS_MAX} are answered`
        throw new InvalidArgumentError({ field: 'connections', problem, remedy: 'ask in parts' })
      }
      return DecideResponse.create({
        decisions: connections.map(decide),
        revision: rules.revision,
        horizonMs: BigInt(horizonMs),
      })
    },
    async listRules(_request, { scope }) {
      // Those of no network are the domain's, and hold for everybody.
      const isVisible = ({ networkId }: { readonly networkId: number }): boolean =>
        scope === 'all' || networkId === 0 || scope.has(world.tenantOfNetwork(networkId) ?? 0)
      return ListRulesResponse.create({
        rules: rules.table.list().filter(isVisible).map(ruleToMessage),
        revision: rules.revision,
      })
    },
  }
}
