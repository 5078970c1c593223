//! What the eBPF programs and the shuttle share: a mirror of `bpf/abi.h`, which decides.
//!
//! Field names, order and units are those of the header, where each is described. Sizes are asserted when this
//! crate is compiled, and a test of the crate `kernel` compares every field with the type information of the
//! compiled programs. Addresses are in network order; an IPv4 address in 16 bytes is IPv4-mapped.

use std::mem::size_of;
use std::net::IpAddr;

pub use reasons::{DropReason, Verdict};

#[allow(clippy::doc_markdown, reason = "the words are those of the C header")]
mod reasons {
    include!(concat!(env!("OUT_DIR"), "/reasons.rs"));
}

/// Number of the layouts; part of the path of the pins.
pub const ABI: u32 = 2;
/// Length of [`Counters::verdicts`].
pub const VERDICT_MAX: usize = 16;
/// Length of [`Counters::drops`].
pub const DROP_MAX: usize = 64;
/// Ports and hosts to which one network's broadcasts go, together.
pub const REPLICATION_MAX: usize = 256;

/// In place of an ifindex a `WireGuard` client has its endpoint's id with this bit. Ids of hosts and endpoints are below
/// it.
pub const CLIENT_BIT: u32 = 1 << 31;

/// What stands in for the ifindex of an endpoint that is a `WireGuard` client.
pub const fn client_number(endpoint_id: u32) -> u32 {
    endpoint_id | CLIENT_BIT
}

/// The endpoint, where an ifindex or the number of a peer is a client's.
pub const fn client_endpoint(number: u32) -> Option<u32> {
    if number & CLIENT_BIT == 0 { None } else { Some(number & !CLIENT_BIT) }
}

/// Port flag: sources beside its two addresses are looked up in [`Guard`] rows.
pub const PORT_MORE_SOURCES: u16 = 1 << 0;
/// Port flag: the endpoint routes, so it may send router advertisements.
pub const PORT_ROUTES: u16 = 1 << 1;
/// Switch table flag: as [`PORT_MORE_SOURCES`].
pub const FDB_MORE_SOURCES: u8 = 1 << 0;
/// Switch table flag: as [`PORT_ROUTES`].
pub const FDB_ROUTES: u8 = 1 << 1;
/// Switch table flag: the endpoint's host may bring its frames in VXLAN.
pub const FDB_BY_VXLAN: u8 = 1 << 2;
/// Switch table flag: the endpoint's host may bring its frames sealed.
pub const FDB_BY_SEALED: u8 = 1 << 3;
/// Remote flag: a plain VXLAN device, which asks for its neighbours itself.
pub const REMOTE_FOREIGN: u32 = 1 << 0;
/// Peer flag: the Ethernet header of the path is current and both addresses are IPv4.
pub const PEER_RESOLVED: u16 = 1 << 0;
/// Peer flag: the underlay addresses are IPv6.
pub const PEER_IP6: u16 = 1 << 1;

/// Target is the ifindex of a port whose other end is in another network namespace.
pub const VIA_PEER: u8 = 1;
/// Target is the ifindex of a TAP, or of a port whose other end is in the shuttle's own namespace.
pub const VIA_DEVICE: u8 = 2;
/// Target is the id of another host, reached in VXLAN.
pub const VIA_HOST: u8 = 3;
/// No target: dropped for [`Flow::reason`].
pub const VIA_DROP: u8 = 4;
/// Target is the id of another host, reached by the shuttle, which seals.
pub const VIA_SEALED: u8 = 5;
/// Target is the number of a `WireGuard` client ([`client_number`]), reached by the shuttle.
pub const VIA_CLIENT: u8 = 6;

/// First byte of a [`SlowMeta`].
pub const SLOW_MAGIC: u8 = 0x57;
/// To the shuttle: no flow for this source and target.
pub const SLOW_MISS: u8 = 1;
/// To the shuttle: ARP request or neighbour solicitation for an address without a neighbour.
pub const SLOW_NEIGHBOUR: u8 = 2;
/// To the shuttle: larger than [`SlowMeta::mtu`].
pub const SLOW_MTU: u8 = 3;
/// From the shuttle: walk the tables again.
pub const SLOW_RESEND: u8 = 16;
/// From the shuttle: a frame of its own for the port [`SlowMeta::ifindex`].
pub const SLOW_TO_SOURCE: u8 = 17;
/// From the shuttle: count [`SlowMeta::reason`] at the port; the payload may be cut off.
pub const SLOW_DROP: u8 = 18;

/// First byte of a [`SealMeta`].
pub const SEAL_MAGIC: u8 = 0x53;

/// What carries frames to another host. A host may be reached by both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Carrier {
    /// VXLAN, in the clear.
    Vxlan,
    /// The shuttle, which seals.
    Sealed,
}

impl Carrier {
    /// Every one of them.
    pub const ALL: [Self; 2] = [Self::Vxlan, Self::Sealed];

    /// Its number in flows and [`PeerKey`].
    pub const fn via(self) -> u8 {
        match self {
            Self::Vxlan => VIA_HOST,
            Self::Sealed => VIA_SEALED,
        }
    }

    const fn fdb_flag(self) -> u8 {
        match self {
            Self::Vxlan => FDB_BY_VXLAN,
            Self::Sealed => FDB_BY_SEALED,
        }
    }
}

/// A set of carriers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Carriers(u8);

impl Carriers {
    /// Whether this one is among them.
    pub const fn contains(self, carrier: Carrier) -> bool {
        self.0 & carrier.fdb_flag() != 0
    }

    /// Their flags in [`Fdb::flags`].
    pub const fn fdb_flags(self) -> u8 {
        self.0
    }
}

impl FromIterator<Carrier> for Carriers {
    fn from_iter<T: IntoIterator<Item = Carrier>>(carriers: T) -> Self {
        Self(carriers.into_iter().fold(0, |flags, carrier| flags | carrier.fdb_flag()))
    }
}

/// A struct of plain integers without padding: any bytes are a value, and a value is its bytes.
///
/// # Safety
/// The type is `repr(C)`, has no padding, and holds nothing but integers and arrays of them.
pub unsafe trait Plain: Copy + 'static {
    /// The value as the kernel sees it.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: by the contract of the trait every byte is initialised.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// The value that these bytes are.
    ///
    /// # Panics
    /// If `bytes` has another length than the type.
    fn from_bytes(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), size_of::<Self>());
        // SAFETY: the length fits, any bytes are a value, and the read needs no alignment.
        unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() }
    }
}

// SAFETY: an integer.
unsafe impl Plain for u32 {}

/// Declares structs of `bpf/abi.h` with their sizes, and the list of them for the test against the object file.
macro_rules! layouts {
    ($($(#[$doc:meta])* $name:ident, $c_name:literal, $size:expr => { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            #[repr(C)]
            #[allow(missing_docs, reason = "the fields are described in bpf/abi.h")]
            pub struct $name { $(pub $field: $type,)* }

            // SAFETY: repr(C) and integers only; the assertions below rule padding out.
            unsafe impl Plain for $name {}
            const _: () = assert!(size_of::<$name>() == $size);
            const _: () = assert!(0 $(+ size_of::<$type>())* == $size);

            impl Default for $name {
                fn default() -> Self {
                    // SAFETY: zero is a value of every integer.
                    unsafe { std::mem::zeroed() }
                }
            }
        )*

        /// Every struct with its name in C, its size, and name, offset and size in bytes of its fields.
        pub const LAYOUTS: &[Layout] = &[$(Layout {
            c_name: $c_name,
            size: size_of::<$name>(),
            fields: &[$((stringify!($field), std::mem::offset_of!($name, $field), size_of::<$type>()),)*],
        },)*];
    };
}

/// A struct as this crate lays it out.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Name of the struct in `bpf/abi.h`.
    pub c_name: &'static str,
    /// Bytes.
    pub size: usize,
    /// Name, offset and size of each field; offset and size in bytes.
    pub fields: &'static [(&'static str, usize, usize)],
}

layouts! {
    /// The only value of the map `config`.
    Config, "config", 40 => {
        abi: u32,
        active: u32,
        generation: u32,
        vxlan_port: u32,
        heartbeat_ns: u64,
        vxlan_ifindex: u32,
        slow_ifindex: u32,
        seal_ifindex: u32,
        pad: u32,
    }
    /// A rate limit.
    Budget, "budget", 16 => {
        paid_until_ns: u64,
        interval_ns: u32,
        depth_ns: u32,
    }
    /// A port, by ifindex or what stands in for one.
    Port, "port", 88 => {
        endpoint_id: u32,
        vni: u32,
        mac: [u8; 6],
        mtu: u16,
        flags: u16,
        slot: u16,
        ip4: [u8; 4],
        ip6: [u8; 16],
        miss: Budget,
        error: Budget,
        replicate: Budget,
    }
    /// A source and a target.
    FlowKey, "flow_key", 12 => {
        source_endpoint_id: u32,
        target_mac: [u8; 6],
        pad: u16,
    }
    /// What happens to the frames of a flow.
    Flow, "flow", 20 => {
        generation: u32,
        target_endpoint_id: u32,
        target: u32,
        via: u8,
        reason: u8,
        slot: u16,
        last_used_s: u32,
    }
    /// A MAC of a network.
    FdbKey, "fdb_key", 12 => {
        vni: u32,
        mac: [u8; 6],
        half: u16,
    }
    /// Where an endpoint is and which addresses are its own.
    Fdb, "fdb", 32 => {
        endpoint_id: u32,
        target: u32,
        via: u8,
        flags: u8,
        slot: u16,
        ip4: [u8; 4],
        ip6: [u8; 16],
    }
    /// An address of a network.
    NeighKey, "neigh_key", 24 => {
        vni: u32,
        half: u32,
        ip: [u8; 16],
    }
    /// The MAC that answers for an address.
    Neigh, "neigh", 8 => {
        mac: [u8; 6],
        pad: u16,
    }
    /// A prefix that an endpoint may send from.
    GuardKey, "guard_key", 28 => {
        prefix_bits: u32,
        half: u32,
        endpoint_id: u32,
        ip: [u8; 16],
    }
    /// That it may.
    Guard, "guard", 4 => {
        allowed: u32,
    }
    /// A network.
    ReplicationKey, "replication_key", 8 => {
        vni: u32,
        half: u32,
    }
    /// Where the broadcasts of a network go.
    Replication, "replication", 12 + 4 * REPLICATION_MAX => {
        port_count: u32,
        host_count: u32,
        sealed_count: u32,
        targets: [u32; REPLICATION_MAX],
    }
    /// An underlay address of another host.
    RemoteKey, "remote_key", 16 => {
        ip: [u8; 16],
    }
    /// Whose it is.
    Remote, "remote", 24 => {
        host_id: u32,
        flags: u32,
        local_ip: [u8; 16],
    }
    /// Another host by one carrier.
    PeerKey, "peer_key", 8 => {
        host_id: u32,
        via: u32,
    }
    /// How frames get there.
    Peer, "peer", 52 => {
        remote_ip: [u8; 16],
        local_ip: [u8; 16],
        ifindex: u32,
        mtu: u16,
        flags: u16,
        target_mac: [u8; 6],
        source_mac: [u8; 6],
    }
    /// Counters of a port on one CPU.
    Counters, "counters", 8 * (4 + VERDICT_MAX + DROP_MAX) => {
        received_packets: u64,
        received_bytes: u64,
        sent_packets: u64,
        sent_bytes: u64,
        verdicts: [u64; VERDICT_MAX],
        drops: [u64; DROP_MAX],
    }
    /// The header between Ethernet header and payload on the slow TAP.
    SlowMeta, "slow_meta", 16 => {
        magic: u8,
        purpose: u8,
        reason: u8,
        pad: u8,
        endpoint_id: u32,
        ifindex: u32,
        ethertype: [u8; 2],
        mtu: u16,
    }
    /// The header on the TAP of what is sealed: before the Ethernet frame to the shuttle, behind the Ethernet header
    /// from it.
    SealMeta, "seal_meta", 16 => {
        magic: u8,
        flags: u8,
        ethertype: [u8; 2],
        host_id: u32,
        vni: u32,
        reserved: u32,
    }
}

impl Counters {
    /// Adds what another CPU counted.
    pub fn add(&mut self, other: &Self) {
        self.received_packets += other.received_packets;
        self.received_bytes += other.received_bytes;
        self.sent_packets += other.sent_packets;
        self.sent_bytes += other.sent_bytes;
        self.verdicts.iter_mut().zip(other.verdicts).for_each(|(sum, more)| *sum += more);
        self.drops.iter_mut().zip(other.drops).for_each(|(sum, more)| *sum += more);
    }

    /// Frames with this verdict.
    pub const fn verdict(&self, verdict: Verdict) -> u64 {
        self.verdicts[verdict as usize]
    }

    /// Frames dropped for this reason.
    pub const fn drop(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }
}

/// The 16 bytes by which the programs know an address.
pub const fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_the_counters() {
        assert!(Verdict::ALL.iter().all(|verdict| (*verdict as usize) < VERDICT_MAX));
        assert!(DropReason::ALL.iter().all(|reason| (*reason as usize) < DROP_MAX));
    }

    #[test]
    fn bytes_of_a_value_give_the_value_again() {
        let key = FdbKey { vni: 7, mac: [1, 2, 3, 4, 5, 6], half: 1 };
        assert_eq!(key.as_bytes(), [7, 0, 0, 0, 1, 2, 3, 4, 5, 6, 1, 0]);
        assert_eq!(FdbKey::from_bytes(key.as_bytes()), key);
    }

    #[test]
    fn a_set_of_carriers_has_what_was_put_in() {
        let sealed = Carriers::from_iter([Carrier::Sealed]);
        assert!(sealed.contains(Carrier::Sealed) && !sealed.contains(Carrier::Vxlan));
        assert_eq!(Carriers::from_iter(Carrier::ALL).fdb_flags(), FDB_BY_VXLAN | FDB_BY_SEALED);
        assert_eq!(Carriers::default().fdb_flags(), 0);
    }

    #[test]
    fn a_clients_number_tells_its_endpoint_and_is_no_ifindex() {
        assert_eq!(client_endpoint(client_number(7)), Some(7));
        assert_eq!(client_endpoint(7), None);
        assert!(i32::try_from(client_number(1)).is_err());
    }

    #[test]
    fn an_ipv4_address_meets_no_ipv6_address() {
        let mapped = mapped("10.1.2.3".parse().unwrap());
        assert_eq!(mapped, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]);
    }
}
