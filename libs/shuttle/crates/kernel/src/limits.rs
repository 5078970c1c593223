//! How much the kernel may hold, and what that costs.

use std::mem::size_of;

use weft_abi::{
    Counters, Fdb, FdbKey, Flow, FlowKey, Guard, GuardKey, Neigh, NeighKey, Peer, PeerKey, Port,
    Remote, RemoteKey, Replication, ReplicationKey,
};

/// How many rows each map takes at most. Memory is taken as rows come, so a small host stays small; only the counters
/// are there from the start, 672 bytes for each CPU and port.
///
/// A map that exists keeps the limits with which it was made: to change them remove the pins, which makes
/// everything anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ports of this host, 65,535 at most.
    pub ports: u32,
    /// Endpoints of all networks that have a port here, wherever they are.
    pub endpoints: u32,
    /// Allowed prefixes, and addresses of an endpoint beyond its first of each family.
    pub prefixes: u32,
    /// Networks that have a port here.
    pub networks: u32,
    /// Other hosts.
    pub hosts: u32,
    /// Pairs of endpoints that talk.
    pub flows: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ports: 1_024,
            endpoints: 65_536,
            prefixes: 16_384,
            networks: 4_096,
            hosts: 16_384,
            flows: 131_072,
        }
    }
}

/// What the kernel adds to key and value of a row: a hash element's header (48 bytes, 6.18) and what its allocator
/// rounds up; a trie node's header and the inner nodes.
const HASH_ROW_BYTES: u64 = 64;
const TRIE_ROW_BYTES: u64 = 96;
/// A bucket of a hash table: list head and lock; there are as many as rows at most, rounded up to a power of two.
const BUCKET_BYTES: u64 = 16;

impl Limits {
    /// Rows of each map, in the order of [`crate::pins::MAPS`].
    pub(crate) const fn rows(&self, map: &str) -> Option<u32> {
        Some(match map.as_bytes() {
            b"ports" => self.ports,
            // Slot 0 is the host.
            b"port_counters" => self.ports + 1,
            b"flows" => self.flows,
            // World tables hold two halves.
            b"fdb" => 2 * self.endpoints,
            // Two addresses and the link-local one.
            b"neigh" => 2 * 3 * self.endpoints,
            b"guard" => 2 * self.prefixes,
            b"replication" => 2 * self.networks,
            // By each carrier.
            b"peers" => 2 * self.hosts,
            b"remotes" => self.hosts,
            _ => return None,
        })
    }

    /// Bytes of kernel memory when every map is full, on a machine with so many CPUs. The defaults on two CPUs
    /// come to 94 MiB full and 14 MiB empty, where the buckets are.
    pub const fn memory_bytes_max(&self, cpus: u64) -> u64 {
        const fn hash(rows: u32, row_bytes: usize) -> u64 {
            rows as u64 * (row_bytes as u64 + HASH_ROW_BYTES) + buckets(rows)
        }
        hash(self.ports, size_of::<u32>() + size_of::<Port>())
            + self.counter_bytes(cpus)
            + hash(self.flows, size_of::<FlowKey>() + size_of::<Flow>())
            + hash(2 * self.endpoints, size_of::<FdbKey>() + size_of::<Fdb>())
            + hash(6 * self.endpoints, size_of::<NeighKey>() + size_of::<Neigh>())
            + 2 * self.prefixes as u64
                * ((size_of::<GuardKey>() + size_of::<Guard>()) as u64 + TRIE_ROW_BYTES)
            + hash(2 * self.networks, size_of::<ReplicationKey>() + size_of::<Replication>())
            + hash(2 * self.hosts, size_of::<PeerKey>() + size_of::<Peer>())
            + hash(self.hosts, size_of::<RemoteKey>() + size_of::<Remote>())
    }

    /// The part of it that is taken from the start.
    pub const fn memory_bytes_min(&self, cpus: u64) -> u64 {
        self.counter_bytes(cpus)
            + buckets(self.ports)
            + buckets(self.flows)
            + buckets(2 * self.endpoints)
            + buckets(6 * self.endpoints)
            + buckets(2 * self.networks)
            + buckets(2 * self.hosts)
            + buckets(self.hosts)
    }

    /// The counters are an array.
    const fn counter_bytes(&self, cpus: u64) -> u64 {
        cpus * (self.ports as u64 + 1) * size_of::<Counters>() as u64
    }
}

const fn buckets(rows: u32) -> u64 {
    rows.next_power_of_two() as u64 * BUCKET_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_in_the_documentation_are_those_of_the_defaults() {
        let limits = Limits::default();
        assert_eq!(limits.memory_bytes_max(2) >> 20, 94);
        assert_eq!(limits.memory_bytes_min(2) >> 20, 14);
    }
}
