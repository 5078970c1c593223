/**
 * Servers for the scenarios: HTTP, the same by TLS, and TCP echo. `GET /bytes/N` answers N bytes; `POST /count` answers how many
 * bytes came, `POST /digest` their SHA-256 in hexadecimal.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { createServer as createTcpServer } from 'node:net'

const [key = '', certificate = '', ...ports] = process.argv.slice(2)
const [webPort = 0, tlsPort = 0, echoPort = 0] = ports.map(Number)

const answer: RequestListener = (request, response) => {
  if (request.method === 'POST' && request.url === '/digest') {
    const digest = createHash('sha256')
    request.on('data', (chunk: Buffer) => digest.update(chunk))
    request.on('end', () => response.end(digest.digest('hex')))
    return
  }
  if (request.method === 'POST') {
    let count = 0
    request.on('data', (chunk: Buffer) => {
      count += chunk.length
    })
    request.on('end', () => response.end(String(count)))
    return
  }
  const size = /^\/bytes\/(\d+)$/.exec(request.url ?? '')?.[1]
  response.end(size === undefined ? 'woven\n' : Buffer.alloc(Number(size), 'w'))
}

const servers = [
  createServer(answer).listen(webPort, '::'),
  createTlsServer({ key: readFileSync(key), cert: readFileSync(certificate) }, answer).listen(
    tlsPort,
    '::',
  ),
  createTcpServer((socket) => {
    socket.on('error', () => socket.destroy())
    socket.pipe(socket)
  }).listen(echoPort, '::'),
]
await Promise.all(
  servers.map((server) => new Promise((resolve) => server.once('listening', resolve))),
)
console.log('ready')
