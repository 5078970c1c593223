import { randomBytes, randomUUID } from 'node:crypto'
import {
  auditAccess,
  authoriser,
  certificateAccess,
  configAccess,
  enrolmentAccess,
  tenantLockAccess,
} from '@weft/access'
import { type Bus, buckets, connectBus, keepMirror } from '@weft/bus'
import { openCredentials } from '@weft/domain'
import { type BusLogin, type Credentials, signStatement } from '@weft/identity'
import { AuditRecord, AuditServiceService } from '@weft/proto/weftline/audit/v1/audit.ts'
import { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import {
  CertificateServiceService,
  EnrolmentServiceService,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import { Record as StoredRecord } from '@weft/proto/weftline/config/v1/records.ts'
import { TenantLockServiceService } from '@weft/proto/weftline/config/v1/tenant_lock_service.ts'
import { Location } from '@weft/proto/weftline/location/v1/location.ts'
import { implement, serve } from '@weft/rpc'
import type { RunningService, ServiceContext } from '@weft/service'
import type { Logger } from '@weft/telemetry'
import { Audit } from './audit/audit.ts'
import { BucketCopy } from './audit/bucket-copy.ts'
import { AuditEvents } from './audit/events.ts'
import { FileCopy } from './audit/file-copy.ts'
import { noteDenial, tellingDenials } from './audit/recording.ts'
import { auditHandlers } from './audit/rpc.ts'
import type { Authority } from './authority.ts'
import { AuthorityKeeper, readAuthorityFolder } from './authority-folder.ts'
import { busAdmin } from './bus-admin.ts'
import { commitAsConfig } from './commit-as-config.ts'
import { Commits } from './commits.ts'
import type { Config } from './config.ts'
import { Controller } from './controller.ts'
import { informedCredentials } from './credentials.ts'
import { seedOwner } from './domain/requests/users.ts'
import { certificateHandlers, enrolmentHandlers } from './enrolment.ts'
import { Events } from './events.ts'
import { LastKnown } from './last-known.ts'
import { faceLosses } from './loss.ts'
import { Replica } from './replica.ts'
import { Requests } from './requests.ts'
import { type BusAdmin, Revoker } from './revocations.ts'
import { configHandlers } from './rpc.ts'
import { followLocations, followRecords, hearConnections } from './subscriptions.ts'
import { tenantLockHandlers } from './tenant-lock.ts'
import { knownCallers, worldOf } from './world.ts'

/** Who this replica is, and for whom it vouches. */
export interface Membership {
  readonly credentials: Credentials
  readonly authority: Authority
  readonly busAdmin: BusAdmin
}

export async function start(config: Config, context: ServiceContext): Promise<RunningService> {
  await using opened = new AsyncDisposableStack()
  const { log, signal } = context
  const replicaId = config.replicaId ?? `${context.name}-${randomUUID()}`
  const folder = await readAuthorityFolder(config.authorityFolder, new Date())
  const { authority } = folder
  const credentials = opened.use(
    await openCredentials({
      folder: config.identityFolder,
      log,
      // Nobody else vouches for config.
      renew: async () => authority.serviceCredentials('config', new Date()),
    }),
  )
  // After a long time off, before the bus refuses what has expired.
  if (credentials.tls.notAfter <= new Date()) await credentials.renewNow()
  opened.use(new AuthorityKeeper(config.authorityFolder, authority, new Events(log)))
  const servers = busServersOf(config, authority)
  const bus = opened.use(await connectBus({ servers, credentials, name: replicaId, log, signal }))
  const connect = async (login: BusLogin): Promise<Bus> =>
    opened.use(await connectBus({ servers, credentials, login, name: replicaId, log, signal }))
  const system = await connect(folder.system)
  const hostsAdmin = await connect(folder.hostsAdmin)
  opened.use(keepMirror({ control: bus, hostsAdmin, shape: buckets.hosts, log }))
  const membership = { credentials, authority, busAdmin: busAdmin({ ...folder, system }) }
  const { addresses } = opened.use(await startOn(bus, replicaId, config, context, membership))
  const running = opened.move()
  return { addresses, [Symbol.asyncDispose]: () => running.disposeAsync() }
}

function busServersOf({ natsUrls }: Config, { places }: Authority): readonly string[] {
  return natsUrls ?? places.bus
}

/** Starts on a bus that is there. The addresses are those of ConfigService, then those of EnrolmentService. */
export async function startOn(
  bus: Bus,
  replicaId: string,
  config: Config,
  { log }: ServiceContext,
  { credentials: own, authority, busAdmin }: Membership,
): Promise<RunningService> {
  await using opened = new AsyncDisposableStack()
  const events = new Events(log)
  const replica = new Replica()
  const { database } = replica
  const records = await bus.openBucket(buckets.config, StoredRecord)
  const locations = await bus.openBucket(buckets.locations, Location, { access: 'remote' })
  opened.use(await followRecords(records, replica, events))
  opened.use(await followLocations(locations, replica, events))
  opened.use(hearConnections(bus, replica, events))
  const audit = opened.use(await startAudit(bus, replicaId, config, own, log))
  const commits = opened.use(new Commits(records, replica, events))
  const lastKnown = await LastKnown.read(config.auditFolder, own.directoryKey)
  await faceLosses({
    known: lastKnown,
    accepted: config.acceptLossAfter,
    records,
    replica,
    commits,
    audit,
    credentials: own,
    events,
  })
  await makeOwner(commits, authority, audit, own, events)
  const { directoryKey } = authority
  const controller = opened.use(
    new Controller({ replicaId, bus, replica, records, locations, directoryKey, events }),
  )
  const revoker = opened.use(
    new Revoker({
      bus,
      busAdmin,
      replica,
      replicaId,
      directoryKey,
      lastKnown,
      isLeading: () => controller.isLeading,
      events,
    }),
  )
  opened.defer(
    events.observe({
      counts: () => database.counts,
      queueDepth: () => commits.queueDepth,
      isController: () => controller.isLeading,
      connectionCount: () => replica.connections.size,
      authorityEnds: () => authority.notAfter,
    }),
  )
  const requests = new Requests(commits, audit, database)
  const busServers = busServersOf(config, authority)
  const api = { bus, busServers, replicaId, replica, requests, controller }
  const enrolment = { authority, replica, requests, events }
  const credentials = informedCredentials(own, database.members, revoker)
  const authorise = knownCallers(
    database,
    authoriser({
      world: worldOf(database),
      onDenied: (call, error) => noteDenial(audit, call, error),
    }),
  )
  const enrol = tellingDenials(enrolmentHandlers(enrolment), audit)
  const certify = tellingDenials(certificateHandlers(enrolment), audit)
  const configure = tellingDenials(configHandlers(api), audit)
  const lock = tenantLockHandlers(database, own.identity.domain, requests)
  const enrolmentServer = opened.use(
    await serve({
      listen: config.enrolmentListen,
      services: [implement(EnrolmentServiceService, enrol, enrolmentAccess)],
      security: { kind: 'server-tls', credentials, authorise },
      log,
    }),
  )
  const server = opened.use(
    await serve({
      listen: config.listen,
      services: [
        implement(ConfigServiceService, configure, configAccess),
        implement(TenantLockServiceService, tellingDenials(lock, audit), tenantLockAccess),
        implement(CertificateServiceService, certify, certificateAccess),
        implement(AuditServiceService, await auditHandlers(bus), auditAccess),
      ],
      security: { kind: 'mutual-tls', credentials, authorise },
      log,
    }),
  )
  const addresses = [...server.addresses, ...enrolmentServer.addresses]
  const running = opened.move()
  return { addresses, [Symbol.asyncDispose]: () => running.disposeAsync() }
}

/** Starts a chain of this replica's own in the audit log. */
async function startAudit(
  bus: Bus,
  replicaId: string,
  { auditFolder }: Config,
  { identityKey }: Credentials,
  log: Logger,
): Promise<Audit> {
  const bucket = await bus.openBucket(buckets.audit, AuditRecord)
  const name = replicaId.slice(0, 64).replaceAll(/[^\w-]/g, '_')
  // Nobody ever had this one, whatever the replica is called.
  const writer = `${name}-${Date.now().toString(36)}-${randomBytes(4).toString('hex')}`
  return new Audit({
    writer,
    copies: [new FileCopy(auditFolder, writer), new BucketCopy(bucket, writer)],
    signHead: (head) => signStatement('audit-head', head, identityKey),
    events: new AuditEvents(log),
  })
}

/** A new domain belongs to whom the authority folder says. */
async function makeOwner(
  commits: Commits,
  authority: Authority,
  audit: Audit,
  credentials: Credentials,
  events: Events,
): Promise<void> {
  const owner = await commitAsConfig(
    { commits, audit, credentials },
    {
      what: 'the first user of the domain',
      method: 'make-owner',
      about: { kind: 'user', name: 'owner', reason: 'the domain is new' },
      plan: (database, caller) => seedOwner(database, authority.ownerKey, caller),
    },
  )
  if (owner) events.ownerSeeded(owner.id)
}
