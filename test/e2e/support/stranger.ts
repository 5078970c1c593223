import type { Lab } from '@weft/lab'
import { NewPlace } from '../../support/place.ts'
import { at, PREFIX } from './lab.ts'

/** Of the management network, above the lab's own. */
const FIRST_ADDRESS = 200

let count = 0

/** A machine on the management network of a lab that is no part of it: it reaches every listener, and has nothing to show. */
export async function makeStranger(lab: Lab): Promise<NewPlace> {
  const index = count++
  const place = await NewPlace.make(`${PREFIX}-stranger${index}`)
  try {
    const control = at(lab, 'control')
    const port = `m-stranger${index}`
    await control.ip(
      `link add ${port} type veth peer name mgmt0 netns ${place.namespace}`,
      `link set ${port} master mgmt0`,
      `link set ${port} up`,
    )
    await place.ip(
      `address add 198.18.0.${FIRST_ADDRESS + index}/24 dev mgmt0`,
      'link set mgmt0 up',
    )
    return place
  } catch (error) {
    await place[Symbol.asyncDispose]()
    throw error
  }
}
