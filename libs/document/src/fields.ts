import {
  type IpAddress,
  isCanonical,
  isStationMac,
  isUnicastAddress,
  type MacAddress,
  nameProblem,
  type Prefix,
  parseIpAddress,
  parseMacAddress,
  parsePrefix,
} from '@weft/net'
import { z } from 'zod'

/** A name: one lower-case DNS label. */
export const nameField: z.ZodType<string, string> = z.string().superRefine((text, context) => {
  const problem = nameProblem(text)
  if (problem !== undefined) context.addIssue(`${JSON.stringify(text)} is no name: ${problem}`)
})

/** A prefix without host bits. */
export const prefixField: z.ZodType<Prefix, string> = z.string().transform((text, context) => {
  const prefix = parsePrefix(text)
  if (prefix !== undefined && isCanonical(prefix)) return prefix
  context.addIssue(`${JSON.stringify(text)} is no prefix such as 10.20.0.0/16 or fd20::/64`)
  return z.NEVER
})

/** An address of one machine. */
export const addressField: z.ZodType<IpAddress, string> = z.string().transform((text, context) => {
  const address = parseIpAddress(text)
  if (address !== undefined && isUnicastAddress(address)) return address
  context.addIssue(`${JSON.stringify(text)} is no address such as 10.20.0.11 or fd20::11`)
  return z.NEVER
})

/** A MAC address of one station. */
export const macField: z.ZodType<MacAddress, string> = z.string().transform((text, context) => {
  const mac = parseMacAddress(text)
  if (mac !== undefined && isStationMac(mac)) return mac
  context.addIssue(`${JSON.stringify(text)} is no MAC address such as 02:00:00:00:00:0b`)
  return z.NEVER
})
