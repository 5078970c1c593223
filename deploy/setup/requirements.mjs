// What a machine must have before the rest can be set up. Pure: facts in, findings out; `probe.mjs` gathers the facts.

/** Oldest kernel whose TCX links and managed neighbours the data plane uses. */
export const KERNEL_MIN = [6, 6]
/** Oldest Node that these set-up scripts run on; everything else runs on the Node that npm installs. */
export const NODE_MIN = [20, 0]
/** Oldest Rust toolchain that builds the shuttle. */
export const RUST_MIN = [1, 95]
/** Room for packages, build results and one staged copy of what the lab runs. */
export const DISK_MIN_BYTES = 7 * 1024 ** 3

/**
 * Debian packages by the file that shows that they are there: a command looked up in PATH, or an absolute path.
 * `for` says which commands of the menu need it; without it all of them do.
 */
export const PACKAGES = [
  { provides: 'clang', name: 'clang' },
  { provides: 'llvm-strip', name: 'llvm' },
  { provides: '/usr/include/bpf/bpf_helpers.h', name: 'libbpf-dev' },
  { provides: '/usr/include/linux/bpf.h', name: 'linux-libc-dev' },
  { provides: 'cc', name: 'build-essential' },
  { provides: 'git', name: 'git' },
  { provides: 'clang-format', name: 'clang-format', for: ['check'] },
  { provides: 'ip', name: 'iproute2', for: ['lab', 'test', 'bench', 'torture'] },
  { provides: 'ping', name: 'iputils-ping', for: ['lab', 'test', 'bench', 'torture'] },
  { provides: 'nsenter', name: 'util-linux', for: ['lab', 'test', 'bench', 'torture'] },
  { provides: 'ethtool', name: 'ethtool', for: ['lab', 'test', 'bench', 'torture'] },
  { provides: 'iperf3', name: 'iperf3', for: ['lab', 'test', 'bench', 'torture'] },
  { provides: 'tcpdump', name: 'tcpdump', for: ['lab', 'test', 'torture'] },
  { provides: 'tshark', name: 'tshark', for: ['test', 'torture'] },
  { provides: 'curl', name: 'curl', for: ['lab', 'test', 'torture'] },
  { provides: 'nc', name: 'netcat-openbsd', for: ['lab', 'test', 'torture'] },
  { provides: 'nft', name: 'nftables', for: ['lab', 'test', 'torture'] },
  { provides: 'zsh', name: 'zsh', for: ['test'] },
  { provides: 'fish', name: 'fish', for: ['test'] },
  { provides: 'openssl', name: 'openssl', for: ['lab', 'test', 'bench', 'torture'] },
]

/** Commands of the menu that make namespaces and load programs. */
export const PRIVILEGED_COMMANDS = ['lab', 'test', 'bench', 'torture']

/**
 * @typedef {object} Facts
 * @property {string} platform
 * @property {string} architecture
 * @property {string} nodeVersion
 * @property {number} uid
 * @property {bigint} capabilities effective set of this process
 * @property {string} kernelRelease
 * @property {boolean} hasBtf
 * @property {boolean} hasBpfFs
 * @property {boolean} hasTun
 * @property {boolean} hasNetworkNamespaces
 * @property {number} freeBytes
 * @property {boolean} isBuilt whether an earlier set-up has used the room already
 * @property {string | undefined} npmVersion
 * @property {string | undefined} rustVersion
 * @property {boolean} hasApt
 * @property {string[]} missing values of `provides` that were not found
 */

/**
 * @typedef {object} Findings
 * @property {{ what: string, remedy: string }[]} blockers what set-up cannot mend itself
 * @property {string[]} packages Debian packages to install first
 */

/**
 * Says everything that is missing for a command of the menu, all at once.
 * @param {string} command
 * @param {Facts} facts
 * @returns {Findings}
 */
export function examine(command, facts) {
  const blockers = []
  const lack = (what, remedy) => blockers.push({ what, remedy })
  const isPrivileged = PRIVILEGED_COMMANDS.includes(command)

  if (facts.platform !== 'linux') {
    lack(
      `this machine runs ${facts.platform}`,
      'use Linux: the data plane is made of eBPF programs',
    )
    return { blockers, packages: [] }
  }
  if (!['x64', 'arm64'].includes(facts.architecture)) {
    lack(`processor architecture ${facts.architecture}`, 'use x86-64 or arm64')
  }
  if (!isAtLeast(facts.nodeVersion, NODE_MIN)) {
    lack(
      `Node ${facts.nodeVersion} is too old`,
      `install Node >= ${NODE_MIN[0]}: apt-get install nodejs`,
    )
  }
  if (facts.npmVersion === undefined) lack('npm is not there', 'install it: apt-get install npm')
  if (facts.rustVersion === undefined) {
    lack('no Rust toolchain', `install Rust >= ${RUST_MIN.join('.')} from https://rustup.rs`)
  } else if (!isAtLeast(facts.rustVersion, RUST_MIN)) {
    lack(
      `Rust ${facts.rustVersion} is too old`,
      `bring it to >= ${RUST_MIN.join('.')}: rustup update stable`,
    )
  }
  if (!facts.isBuilt && facts.freeBytes < DISK_MIN_BYTES) {
    lack(
      `${mebibytes(facts.freeBytes)} MiB of disk are free here`,
      `free ${mebibytes(DISK_MIN_BYTES)} MiB, or clone to a larger disk`,
    )
  }

  if (isPrivileged) {
    if (facts.uid !== 0) {
      lack('this is not root', `run it as root: sudo npm ${menuWords(command)}`)
    } else if (!hasCapabilities(facts.capabilities)) {
      lack(
        'root here may not make network namespaces (a container?)',
        'run it on the machine itself or in a virtual machine',
      )
    }
    if (!isAtLeast(facts.kernelRelease, KERNEL_MIN)) {
      lack(`Linux ${facts.kernelRelease} is too old`, `boot a kernel >= ${KERNEL_MIN.join('.')}`)
    }
    if (!facts.hasBtf)
      lack(
        'the kernel has no type information (/sys/kernel/btf/vmlinux)',
        'boot a kernel with CONFIG_DEBUG_INFO_BTF=y',
      )
    if (!facts.hasBpfFs)
      lack('the kernel has no BPF file system', 'boot a kernel with CONFIG_BPF_SYSCALL=y')
    if (!facts.hasTun) lack('no TUN/TAP devices (/dev/net/tun)', 'load the module: modprobe tun')
    if (!facts.hasNetworkNamespaces)
      lack('the kernel has no network namespaces', 'boot a kernel with CONFIG_NET_NS=y')
  }

  const packages = PACKAGES.filter(
    (entry) => facts.missing.includes(entry.provides) && (entry.for?.includes(command) ?? true),
  ).map((entry) => entry.name)
  if (packages.length > 0 && (!facts.hasApt || facts.uid !== 0)) {
    const them = packages.join(' ')
    lack(
      `packages that are not installed: ${them}`,
      facts.hasApt
        ? `sudo apt-get install ${them}`
        : 'install them with the package manager of this system',
    )
    return { blockers, packages: [] }
  }
  return { blockers, packages }
}

/**
 * Compares the leading numbers of a version with a floor.
 * @param {string} version for example `v24.21.0`, `6.18.44-custom`
 * @param {number[]} floor
 */
export function isAtLeast(version, floor) {
  const numbers = version
    .replace(/^v/, '')
    .split(/[.\-+]/)
    .map(Number)
  for (const [index, least] of floor.entries()) {
    const number = numbers[index] ?? 0
    if (Number.isNaN(number) || number < least) return false
    if (number > least) return true
  }
  return true
}

/**
 * nats-server is fit from 2.12.7 in its line, and from 2.14.0 on; 2.13 and pre-releases are not.
 * @param {string} version
 */
export function isFitNatsServer(version) {
  const match = /^v?(\d+)\.(\d+)\.(\d+)$/.exec(version)
  if (match === null) return false
  const [major, minor, patch] = match.slice(1).map(Number)
  if (major !== 2) return major > 2
  return minor >= 14 || (minor === 12 && patch >= 7)
}

/**
 * Says what of a lock file is not installed as it stands there: npm keeps a copy of what it installed.
 * @param {{ packages: Record<string, any> }} lock package-lock.json
 * @param {{ packages: Record<string, any> } | undefined} installed node_modules/.package-lock.json
 * @param {{ os: string, cpu: string }} machine
 * @returns {string[]} paths of packages to install
 */
export function missingNpmPackages(lock, installed, machine) {
  const there = installed?.packages ?? {}
  return Object.entries(lock.packages)
    .filter(([path, entry]) => {
      if (!path.startsWith('node_modules/') && !path.includes('/node_modules/')) return false
      if (!fits(entry.os, machine.os) || !fits(entry.cpu, machine.cpu)) return false
      const present = there[path]
      if (present === undefined) return !(entry.optional && entry.libc !== undefined)
      return present.version !== entry.version || present.integrity !== entry.integrity
    })
    .map(([path]) => path)
}

function fits(entries, value) {
  if (entries === undefined) return true
  const list = [entries].flat()
  if (list.includes(`!${value}`)) return false
  return list.includes(value) || list.every((entry) => entry.startsWith('!'))
}

function hasCapabilities(effective) {
  const CAP_NET_ADMIN = 12n
  const CAP_SYS_ADMIN = 21n
  return ((effective >> CAP_NET_ADMIN) & 1n) === 1n && ((effective >> CAP_SYS_ADMIN) & 1n) === 1n
}

function menuWords(command) {
  return command === 'test' ? 'test' : `run ${command}`
}

function mebibytes(bytes) {
  return Math.floor(bytes / 1024 ** 2)
}
