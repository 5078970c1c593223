import { PROGRAMS } from '../bench/peer-programs.ts'

const NOBODY = 65_534

/** Mounts what a program needs in a namespace of its own, and gives up everything but the capability to configure the network. */
const CONFINE = `
mount --bind "$0" /run
mount --bind "$1" /run/programs
mount -t tmpfs -o mode=755,size=4k,nosuid,noexec tun /dev/net
mknod -m 666 /dev/net/tun c 10 200
shift
exec setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups --no-new-privs --pdeathsig KILL \\
  --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin --bounding-set=-all,+net_admin \\
  -- "$@" >>/run/log 2>&1
`

/** Owner of what a confined program is to read and write. */
export const CONFINED_OWNER: string = `${NOBODY}:${NOBODY}`

/**
 * Words that run a program of others as nobody, who may do nothing but configure the network of its namespace. It has `folder` as
 * `/run`, in which there is a folder `programs` for those of `PROGRAMS`, and a log.
 */
export function confined(folder: string, argv: readonly string[]): string[] {
  return ['unshare', '--mount', 'sh', '-e', '-c', CONFINE, folder, PROGRAMS, ...argv]
}
