import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { mustRun, type Place } from '../../support/place.ts'

export const WEB_PORT = 8080
export const TLS_PORT = 8443
export const ECHO_PORT = 7007

const PROGRAM = join(dirname(fileURLToPath(import.meta.url)), 'serve.ts')

/** Starts HTTP, HTTPS and TCP echo servers in a namespace, on all its addresses. */
export async function startServers(place: Place): Promise<AsyncDisposable> {
  await using made = new AsyncDisposableStack()
  const folder = await mkdtemp(join(tmpdir(), 'weft-test-'))
  made.defer(() => rm(folder, { recursive: true }))
  const [key, certificate] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')]
  await mustRun([
    ...[
      'openssl',
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
    ],
    ...['-days', '1', '-subj', '/CN=weft', '-keyout', key, '-out', certificate],
  ])
  const running = made.use(
    place.start([
      process.execPath,
      PROGRAM,
      key,
      certificate,
      String(WEB_PORT),
      String(TLS_PORT),
      String(ECHO_PORT),
    ]),
  )
  await running.until('ready')
  return made.move()
}
