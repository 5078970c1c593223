import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { describe, test } from 'node:test'
import { connect, createServer, type TLSSocket } from 'node:tls'
import { dersOfPem, generateIdentityKey, publicKeyOf, verifyChain } from '@weft/identity'
import { type TestCredentials, testDomain } from '../src/index.ts'

describe('a domain for tests', () => {
  test('has members that meet over TLS 1.3 and know each other', async () => {
    const domain = testDomain()
    const server = domain.credentials({ kind: 'service', id: 'config' })
    const client = domain.credentials({ kind: 'host', id: 7 })
    const met = await meet(server, client)
    assert.equal(met.protocol, 'TLSv1.3')
    assert.deepEqual(peerOf(met.seenByClient, client).identity, server.identity)
    assert.deepEqual(peerOf(met.seenByServer, server).publicKey, client.publicKey)
  })

  test('is another one than any other of the same name', async () => {
    const server = testDomain().credentials({ kind: 'service', id: 'config' })
    const client = testDomain().credentials({ kind: 'host', id: 7 })
    await assert.rejects(meet(server, client))
  })

  test('renews and revokes, and says so until nobody listens', () => {
    const member = testDomain().credentials({ kind: 'host', id: 7 })
    const stranger = publicKeyOf(generateIdentityKey())
    const told: string[] = []
    const stop = member.onChange((what) => told.push(what))
    const [before, key] = [member.tls, member.publicKey]
    member.renew()
    member.revoke(stranger)
    stop()
    member.renew({ key: generateIdentityKey() })
    assert.deepEqual(told, ['renewed', 'revoked'])
    assert.notEqual(member.tls.chainPem, before.chainPem)
    assert.notDeepEqual(member.publicKey, key)
    assert.deepEqual([member.isRevoked(stranger), member.isRevoked(key)], [true, false])
  })

  test('gives certificates of any time, which say when they end', () => {
    const domain = testDomain()
    const notAfter = new Date(Date.now() - 60_000)
    const member = domain.credentials(
      { kind: 'user', id: 1 },
      { notBefore: new Date(notAfter.getTime() - 60_000), notAfter },
    )
    assert.equal(member.tls.notAfter.getTime(), Math.floor(notAfter.getTime() / 1000) * 1000)
    const verify = (now: Date): unknown =>
      verifyChain({
        chain: dersOfPem(member.tls.chainPem),
        roots: dersOfPem(member.tls.rootsPem),
        now,
      })
    verify(member.tls.notAfter)
    assert.throws(() => verify(new Date()), { code: 'certificate-refused' })
  })
})

interface Met {
  readonly protocol: string | null
  readonly seenByClient: Buffer
  readonly seenByServer: Buffer
}

async function meet(server: TestCredentials, client: TestCredentials): Promise<Met> {
  const options = ({ tls }: TestCredentials): object => ({
    key: tls.keyPem,
    cert: tls.chainPem,
    ca: tls.rootsPem,
    minVersion: 'TLSv1.3',
  })
  const listener = createServer({ ...options(server), requestCert: true })
  // A refused handshake is told to both sides; the client's is the one that is looked at.
  listener.on('tlsClientError', () => undefined)
  const accepted = once(listener, 'secureConnection') as Promise<[TLSSocket]>
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const { port } = listener.address() as AddressInfo
  const socket = connect({
    ...options(client),
    host: '127.0.0.1',
    port,
    checkServerIdentity: () => undefined,
  })
  try {
    await once(socket, 'secureConnect')
    const [other] = await accepted
    const seenByServer = other.getPeerCertificate().raw
    other.destroy()
    return {
      protocol: socket.getProtocol(),
      seenByClient: socket.getPeerCertificate().raw,
      seenByServer,
    }
  } finally {
    socket.destroy()
    listener.close()
  }
}

/** Who showed a certificate, by the authorities and roots of the one who saw it: a server is told of no others (nodejs/node#65579). */
function peerOf(seen: Buffer, by: TestCredentials): ReturnType<typeof verifyChain> {
  const [, ...authorities] = dersOfPem(by.tls.chainPem)
  const roots = dersOfPem(by.tls.rootsPem)
  return verifyChain({ chain: [seen, ...authorities], roots, now: new Date() })
}
