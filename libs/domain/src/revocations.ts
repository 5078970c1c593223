import { type Bus, events as busEvents } from '@weft/bus'
import { asWeftError, type WeftError } from '@weft/errors'
import { Signed } from '@weft/proto/weftline/identity/v1/identity.ts'
import type { OwnCredentials } from './credentials.ts'

/** Hears whose keys are void, and refuses their holders from then on. What the directory did not sign changes nothing, and is told. */
export function hearRevocations(
  bus: Pick<Bus, 'subscribe'>,
  credentials: Pick<OwnCredentials, 'noteRevocations'>,
  events: { revocationsRefused(error: WeftError): void },
  /** Called with what the directory signed, news or not, after it was taken in. */
  onHeard: (statement: Signed) => void = () => undefined,
): AsyncDisposable {
  return bus.subscribe(busEvents.keyRevoked.pattern(), Signed, async (statement) => {
    try {
      await credentials.noteRevocations(statement)
      onHeard(statement)
    } catch (error) {
      events.revocationsRefused(asWeftError(error))
    }
  })
}
