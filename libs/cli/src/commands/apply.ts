import { readFileSync } from 'node:fs'
import { text as readStream } from 'node:stream/consumers'
import { addressField, macField, nameField, prefixField, readDocuments } from '@weft/document'
import { InvalidArgumentError, WeftError } from '@weft/errors'
import type { Weft } from '@weft/sdk'
import type { Command } from 'commander'
import { z } from 'zod'
import { tableView, toPlain } from '../output.ts'
import type { Act } from '../program.ts'

const labels = z.record(z.string(), z.string()).optional()

/** Objects in the order in which they need each other. */
const KINDS = ['tenant', 'zone', 'host', 'network', 'endpoint'] as const

const objectSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('tenant'), name: nameField, labels }),
  z.strictObject({ kind: z.literal('zone'), name: nameField, trusted: z.boolean(), labels }),
  z.strictObject({
    kind: z.literal('host'),
    name: nameField,
    hostKind: z.enum(['weft', 'vxlan-peer']).optional(),
    addresses: z.array(z.strictObject({ address: addressField, zone: nameField })).min(1),
    labels,
  }),
  z.strictObject({
    kind: z.literal('network'),
    tenant: nameField.optional(),
    name: nameField,
    prefixes: z.array(prefixField).min(1),
    mtuBytes: z.int().optional(),
    encryption: z.enum(['required', 'outside-trusted-zones']).optional(),
    vni: z.int().optional(),
    labels,
  }),
  z.strictObject({
    kind: z.literal('endpoint'),
    tenant: nameField.optional(),
    network: nameField,
    name: nameField,
    mac: macField.optional(),
    addresses: z.array(addressField).optional(),
    allow: z.array(prefixField).optional(),
    vxlanPeer: nameField.optional(),
    labels,
  }),
])

type Wanted = z.output<typeof objectSchema>

interface Applied {
  readonly kind: string
  readonly name: string
  readonly result: 'created' | 'unchanged'
}

export function registerApply(program: Command, act: Act): void {
  program
    .command('apply')
    .description(
      'create what a file says and is not there yet; what is there must be as the file says',
    )
    .requiredOption(
      '-f, --file <file>',
      'YAML or JSON with one or several objects; - for standard input',
    )
    .addHelpText(
      'after',
      `
Example of a file:
  kind: network
  name: blue
  prefixes: [10.20.0.0/16, 'fd20::/64']
  ---
  kind: endpoint
  network: blue
  name: web
  addresses: [10.20.0.11]

Kinds: ${KINDS.join(', ')}. Fields are those that \`weft ... show -o yaml\` prints.
`,
    )
    .action(
      act(async (session, options: { file: string }) => {
        const { file } = options
        const text = await readInput(file)
        const source = file === '-' ? 'standard input' : file
        // All of it is read before anything is done: a broken file changes nothing.
        const wanted = readDocuments(text, source, objectSchema)
        const inOrder = wanted.toSorted((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind))
        const weft = await session.weft()
        const tenant = await session.tenant()
        const applied: Applied[] = []
        for (const object of inOrder) applied.push(await applyOne(weft, tenant, object))
        return tableView(
          applied,
          [
            { title: 'KIND', value: (row) => row.kind },
            { title: 'NAME', value: (row) => row.name },
            { title: 'RESULT', value: (row) => row.result },
          ],
          'the file has no objects',
        )
      }),
    )
}

async function readInput(file: string): Promise<string> {
  if (file === '-') return await readStream(process.stdin)
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error)
    throw new InvalidArgumentError({
      field: 'file',
      problem: `it cannot be read: ${problem}`,
      remedy: 'name a file, or - for standard input',
    })
  }
}

async function applyOne(weft: Weft, tenant: string, wanted: Wanted): Promise<Applied> {
  const { name, create, get } = operationsOf(weft, tenant, wanted)
  try {
    await create()
    return { kind: wanted.kind, name, result: 'created' }
  } catch (error) {
    if (!(error instanceof WeftError) || error.code !== `${wanted.kind}-exists`) throw error
  }
  refuseDifference(name, wanted, await get())
  return { kind: wanted.kind, name, result: 'unchanged' }
}

interface Operations {
  readonly name: string
  readonly create: () => Promise<unknown>
  readonly get: () => Promise<object>
}

function operationsOf(weft: Weft, defaultTenant: string, wanted: Wanted): Operations {
  const { name } = wanted
  switch (wanted.kind) {
    case 'tenant':
      return {
        name,
        create: () => weft.tenants.create(given(wanted)),
        get: () => weft.tenants.get(name),
      }
    case 'zone':
      return {
        name,
        create: () => weft.zones.create(given(wanted)),
        get: () => weft.zones.get(name),
      }
    case 'host': {
      const { hostKind, ...rest } = given(wanted)
      return {
        name,
        create: () => weft.hosts.create({ ...rest, ...(hostKind && { kind: hostKind }) }),
        get: async () => {
          const { kind, ...host } = await weft.hosts.get(name)
          return { ...host, hostKind: kind }
        },
      }
    }
    case 'network': {
      const ref = { tenant: wanted.tenant ?? defaultTenant, network: name }
      return {
        name: `${ref.tenant}/${name}`,
        create: () => weft.networks.create({ ...given(wanted), ...ref }),
        get: () => weft.networks.get(ref),
      }
    }
    case 'endpoint': {
      const ref = {
        tenant: wanted.tenant ?? defaultTenant,
        network: wanted.network,
        endpoint: name,
      }
      return {
        name: `${ref.tenant}/${ref.network}/${name}`,
        create: () => weft.endpoints.create({ ...given(wanted), ...ref }),
        get: async () => {
          const { host, ...endpoint } = await weft.endpoints.get(ref)
          return { ...endpoint, vxlanPeer: host }
        },
      }
    }
  }
}

/** The fields that the file has: those that it leaves out are for the server to choose. */
function given<T extends Wanted>(wanted: T): Given<T> {
  const { kind: _, ...fields } = wanted
  const entries = Object.entries(fields).filter(([, value]) => value !== undefined)
  return Object.fromEntries(entries) as unknown as Given<T>
}

type Given<T> = T extends unknown
  ? { [Key in keyof Omit<T, 'kind'>]: Exclude<T[Key & keyof T], undefined> }
  : never

/** Objects are not changed by applying them: what differs is said, and nothing is done. */
function refuseDifference(name: string, wanted: Wanted, present: object): void {
  const there = toPlain(present) as { readonly [field: string]: unknown }
  for (const [field, value] of Object.entries(given(wanted))) {
    const asked = JSON.stringify(toPlain(value, field))
    const found = JSON.stringify(there[field])
    if (asked === found) continue
    throw new InvalidArgumentError({
      field: `${wanted.kind} ${name}`,
      problem: `it is there with ${field} ${found}, not ${asked}`,
      remedy: `change the file, or remove it first: weft ${wanted.kind} rm ${name}`,
    })
  }
}
