import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { ConfigServiceService } from '@weft/proto/weftline/config/v1/config_service.ts'
import { connect } from '@weft/rpc'
import { eventually, freePort } from '@weft/testing'
import type { ConfigClient } from './site.ts'

/** A replica in a process of its own, as it is deployed. */
export interface ReplicaProcess extends AsyncDisposable {
  readonly address: string
  readonly client: ConfigClient
  /** SIGKILL: no word to anyone. */
  kill(): Promise<void>
}

export async function startProcess(natsUrl: string, replicaId: string): Promise<ReplicaProcess> {
  await using opened = new AsyncDisposableStack()
  const address = `127.0.0.1:${await freePort()}`
  const main = fileURLToPath(new URL('../src/main.ts', import.meta.url))
  const child: ChildProcess = spawn(process.execPath, [main], {
    env: {
      WEFT_CONFIG_LISTEN: address,
      NATS_URL: natsUrl,
      WEFT_REPLICA_ID: replicaId,
      WEFT_LOG_LEVEL: 'silent',
    },
    stdio: 'inherit',
  })
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    await once(child, 'exit')
  }
  opened.defer(() => end('SIGKILL'))
  const client = opened.use(connect(address, ConfigServiceService))
  await eventually(async () => (await client.getServerInfo({})).replicaId === replicaId)
  assert(child.pid !== undefined)
  const running = opened.move()
  return {
    address,
    client,
    kill: () => end('SIGKILL'),
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  }
}
