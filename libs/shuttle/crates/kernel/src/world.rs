//! The tables that describe the networks, as changes to them.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use weft_abi::{
    Carriers, FDB_MORE_SOURCES, FDB_ROUTES, Fdb, FdbKey, Guard, GuardKey, Neigh, NeighKey,
    REPLICATION_MAX, Replication, ReplicationKey, VIA_CLIENT, VIA_DEVICE, VIA_HOST, VIA_PEER,
    client_number, mapped,
};

use crate::Error;

/// Bits of a [`GuardKey`] in front of the address.
const GUARD_FIXED_BITS: u32 = 64;
/// Bits in front of the IPv4 address in its mapped form.
const MAPPED_BITS: u32 = 96;

/// An IP prefix; bits beyond the length do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// Any address of it.
    pub address: IpAddr,
    /// 0..=32 or 0..=128, by the family.
    pub length_bits: u8,
}

/// Where an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// A port of this host whose other end is in another network namespace.
    Peer {
        /// The host-side device.
        ifindex: u32,
    },
    /// A port of this host that is a TAP, or a veth whose other end is in this network namespace.
    Device {
        /// The host-side device.
        ifindex: u32,
    },
    /// A port of this host that is a `WireGuard` client, which the shuttle seals for.
    Client {
        /// The endpoint whose client it is.
        endpoint_id: u32,
    },
    /// Another host.
    Host {
        /// Its id.
        host_id: u32,
    },
}

impl Location {
    /// Target and how to reach it, in the form of the maps.
    pub(crate) const fn target(self) -> (u32, u8) {
        match self {
            Self::Peer { ifindex } => (ifindex, VIA_PEER),
            Self::Device { ifindex } => (ifindex, VIA_DEVICE),
            Self::Client { endpoint_id } => (client_number(endpoint_id), VIA_CLIENT),
            Self::Host { host_id } => (host_id, VIA_HOST),
        }
    }
}

/// An endpoint as the programs need to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Never 0.
    pub endpoint_id: u32,
    /// Its network.
    pub vni: u32,
    /// Unique in the network.
    pub mac: [u8; 6],
    /// Its own addresses, unique in the network, any number of either family.
    pub addresses: Vec<IpAddr>,
    /// What else it may send from, because it routes.
    pub allowed_prefixes: Vec<Prefix>,
    /// Where it is.
    pub location: Location,
    /// Of one at another host: by which carriers its frames are taken from there. Frames that come otherwise are
    /// dropped.
    pub carriers: Carriers,
}

impl Endpoint {
    /// The first IPv4 and the first IPv6 address, which the programs compare inline; zeros for none.
    pub(crate) fn inline_addresses(&self) -> ([u8; 4], [u8; 16]) {
        let ip4 = self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        });
        let ip6 = self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.octets()),
        });
        (ip4.unwrap_or_default(), ip6.unwrap_or_default())
    }

    /// Keys of what it may send from beside those two, for a half.
    fn guard_keys(&self) -> Vec<GuardKey> {
        let (ip4, ip6) = self.inline_addresses();
        let further = self.addresses.iter().filter_map(|&address| {
            let (inline, length_bits) = match address {
                IpAddr::V4(address) => (address.octets() == ip4, 32),
                IpAddr::V6(address) => (address.octets() == ip6, 128),
            };
            (!inline).then_some(Prefix { address, length_bits })
        });
        further
            .chain(self.allowed_prefixes.iter().copied())
            .map(|prefix| GuardKey {
                prefix_bits: GUARD_FIXED_BITS
                    + u32::from(prefix.length_bits)
                    + if prefix.address.is_ipv4() { MAPPED_BITS } else { 0 },
                half: 0,
                endpoint_id: self.endpoint_id,
                ip: mapped(prefix.address),
            })
            .collect()
    }

    /// Whether sources beside the inline addresses are allowed.
    pub(crate) fn has_more_sources(&self) -> bool {
        !self.guard_keys().is_empty()
    }

    fn neigh_keys(&self) -> impl Iterator<Item = NeighKey> {
        self.addresses
            .iter()
            .copied()
            .chain([IpAddr::V6(link_local(self.mac))])
            .map(|address| NeighKey { vni: self.vni, half: 0, ip: mapped(address) })
    }
}

/// The link-local address that a device makes of its MAC (RFC 4291, appendix A).
fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let mut address = [0; 16];
    address[..2].copy_from_slice(&[0xfe, 0x80]);
    address[8..11].copy_from_slice(&mac[..3]);
    address[8] ^= 2;
    address[11..13].copy_from_slice(&[0xff, 0xfe]);
    address[13..].copy_from_slice(&mac[3..]);
    Ipv6Addr::from(address)
}

/// Changes to the tables, which take effect together. Of several changes to one row the last one counts, so an
/// endpoint changes by [`remove_endpoint`](Self::remove_endpoint) as it was and
/// [`put_endpoint`](Self::put_endpoint) as it is.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    pub(crate) fdb: HashMap<FdbKey, Option<Fdb>>,
    pub(crate) neigh: HashMap<NeighKey, Option<Neigh>>,
    pub(crate) guard: HashMap<GuardKey, Option<Guard>>,
    pub(crate) replication: HashMap<ReplicationKey, Option<Replication>>,
    /// Endpoints that changed or went: flows from and to them are removed.
    pub(crate) stale_endpoints: BTreeSet<u32>,
}

impl Delta {
    /// Adds an endpoint.
    pub fn put_endpoint(&mut self, endpoint: &Endpoint) {
        let (ip4, ip6) = endpoint.inline_addresses();
        let (target, via) = endpoint.location.target();
        let more_sources = if endpoint.has_more_sources() { FDB_MORE_SOURCES } else { 0 };
        let routes = if endpoint.allowed_prefixes.is_empty() { 0 } else { FDB_ROUTES };
        self.fdb.insert(
            fdb_key(endpoint),
            Some(Fdb {
                endpoint_id: endpoint.endpoint_id,
                target,
                via,
                flags: more_sources | routes | endpoint.carriers.fdb_flags(),
                slot: 0,
                ip4,
                ip6,
            }),
        );
        let neigh = Neigh { mac: endpoint.mac, pad: 0 };
        self.neigh.extend(endpoint.neigh_keys().map(|key| (key, Some(neigh))));
        let guard = Guard { allowed: 1 };
        self.guard.extend(endpoint.guard_keys().into_iter().map(|key| (key, Some(guard))));
    }

    /// Takes an endpoint away, given as it was put, and the flows from and to it.
    pub fn remove_endpoint(&mut self, endpoint: &Endpoint) {
        self.fdb.insert(fdb_key(endpoint), None);
        self.neigh.extend(endpoint.neigh_keys().map(|key| (key, None)));
        self.guard.extend(endpoint.guard_keys().into_iter().map(|key| (key, None)));
        self.stale_endpoints.insert(endpoint.endpoint_id);
    }

    /// Says where a network's broadcasts go: ifindexes of its ports here, ids of the other hosts that get them in
    /// VXLAN, and of those that get them sealed.
    ///
    /// Fails with [`Error::TooManyTargets`] above [`REPLICATION_MAX`] of all together.
    pub fn put_network(
        &mut self,
        vni: u32,
        ports: &[u32],
        hosts: &[u32],
        sealed: &[u32],
    ) -> Result<(), Error> {
        let targets = [ports, hosts, sealed].concat();
        let count = targets.len();
        let (Ok(port_count), Ok(host_count), Ok(sealed_count), true) = (
            ports.len().try_into(),
            hosts.len().try_into(),
            sealed.len().try_into(),
            count <= REPLICATION_MAX,
        ) else {
            return Err(Error::TooManyTargets { vni, count });
        };
        let mut row =
            Replication { port_count, host_count, sealed_count, ..Replication::default() };
        row.targets[..count].copy_from_slice(&targets);
        self.replication.insert(ReplicationKey { vni, half: 0 }, Some(row));
        Ok(())
    }

    /// Takes a network away.
    pub fn remove_network(&mut self, vni: u32) {
        self.replication.insert(ReplicationKey { vni, half: 0 }, None);
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.fdb.is_empty()
            && self.neigh.is_empty()
            && self.guard.is_empty()
            && self.replication.is_empty()
            && self.stale_endpoints.is_empty()
    }
}

fn fdb_key(endpoint: &Endpoint) -> FdbKey {
    FdbKey { vni: endpoint.vni, mac: endpoint.mac, half: 0 }
}
