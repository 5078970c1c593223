//! The data plane of one host.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::EbpfLoader;
use aya::programs::SchedClassifier;
use weft_abi::{
    ABI, Budget, Carrier, Config, Counters, DropReason, Fdb, FdbKey, Flow, FlowKey, Guard,
    GuardKey, Neigh, NeighKey, PEER_IP6, PEER_RESOLVED, PORT_MORE_SOURCES, PORT_ROUTES, Peer,
    PeerKey, Plain, Port, REMOTE_FOREIGN, Remote, RemoteKey, Replication, ReplicationKey, VIA_DROP,
    VIA_HOST, VIA_SEALED, client_number, mapped,
};

use crate::pins::{Pins, unpin};
use crate::table::{Table, TableError};
use crate::world::{Delta, Endpoint, Location};
use crate::{Error, Limits, sys};

/// The compiled programs of `bpf/`.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft.bpf.o"));

/// At ports.
pub(crate) const EP_IN: &str = "ep_in";

/// What a device that is no port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceRole {
    /// Carries the frames of the networks in VXLAN to other hosts. A host may have several.
    Underlay,
    /// The collect-metadata VXLAN device (`external`, learning off).
    Vxlan,
    /// The TAP by which first packets reach the shuttle. Nothing but the shuttle may write to it, so it has no
    /// addresses and IPv6 is off.
    Slow,
    /// The TAP by which frames reach the shuttle to be sealed, and come back opened. As for [`DeviceRole::Slow`].
    Seal,
}

impl DeviceRole {
    pub(crate) const ALL: [Self; 4] = [Self::Underlay, Self::Vxlan, Self::Slow, Self::Seal];

    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Underlay => "ul_in",
            Self::Vxlan => "vx_in",
            Self::Slow => "slow_in",
            Self::Seal => "seal_in",
        }
    }
}

/// How a data plane is opened.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// A folder in a bpffs that belongs to this data plane alone; made where it is missing.
    pub pin_dir: PathBuf,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Sizes of the maps.
    pub limits: Limits,
}

/// So many frames a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub per_second: u32,
    /// At least 1.
    pub burst: u32,
}

impl Rate {
    fn budget(self) -> Budget {
        let interval_ns = 1_000_000_000 / self.per_second.max(1);
        Budget {
            paid_until_ns: 0,
            interval_ns,
            depth_ns: interval_ns.saturating_mul(self.burst.max(1) - 1),
        }
    }
}

/// A port: an endpoint at a host-side device, or at a client.
#[derive(Clone, Debug)]
pub struct PortSpec<'a> {
    /// The endpoint; its location names the device.
    pub endpoint: &'a Endpoint,
    /// Largest IP packet of the network in bytes; of a client no more than its tunnel takes.
    pub mtu: u16,
    /// First packets that may wait for an answer.
    pub miss_rate: Rate,
    /// Frames that the shuttle answers by itself: over the MTU, unknown neighbours.
    pub error_rate: Rate,
    /// Broadcast and multicast frames.
    pub replicate_rate: Rate,
}

impl<'a> PortSpec<'a> {
    /// A port with the usual rates: 2,000 first packets a second (512 at once), 100 errors (64), 1,000
    /// broadcasts (256).
    pub const fn new(endpoint: &'a Endpoint, mtu: u16) -> Self {
        Self {
            endpoint,
            mtu,
            miss_rate: Rate { per_second: 2_000, burst: 512 },
            error_rate: Rate { per_second: 100, burst: 64 },
            replicate_rate: Rate { per_second: 1_000, burst: 256 },
        }
    }
}

/// How frames get to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerPath {
    /// By the VXLAN device and the kernel's route and neighbour tables.
    Device,
    /// With an Ethernet header that the caller keeps current from those tables; used while
    /// [`Datapath::beat`] is called, else as [`PeerPath::Device`]. Only for IPv4 underlays.
    Header {
        /// The underlay device of the route.
        ifindex: u32,
        /// Its MAC.
        source_mac: [u8; 6],
        /// MAC of the host or of the gateway to it.
        target_mac: [u8; 6],
    },
}

/// Another host by one carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    /// Never 0.
    pub host_id: u32,
    /// Largest IP packet of a network that fits the path: in VXLAN the device's MTU less 50 (IPv4) or 70 bytes (IPv6).
    pub mtu: u16,
    /// What carries frames there.
    pub carrier: PeerCarrier,
}

/// A carrier with what the kernel must know for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerCarrier {
    /// VXLAN. Both addresses are of one family.
    Vxlan {
        /// Underlay address of this host.
        local: IpAddr,
        /// Underlay address of the other one.
        remote: IpAddr,
        /// A plain VXLAN device, which asks for its neighbours itself.
        foreign: bool,
        /// How frames get there.
        path: PeerPath,
    },
    /// The shuttle, which knows where the host is. Nothing is taken from any of its addresses in the clear.
    Sealed,
}

impl PeerCarrier {
    /// Without what the kernel must know for it.
    pub const fn carrier(&self) -> Carrier {
        match self {
            Self::Vxlan { .. } => Carrier::Vxlan,
            Self::Sealed => Carrier::Sealed,
        }
    }
}

/// Where the frames of a flow go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowTarget {
    /// To the endpoint's port, or in VXLAN to its host.
    To(Location),
    /// Sealed to its host.
    Sealed {
        /// Its id.
        host_id: u32,
    },
    /// Nowhere.
    Drop(DropReason),
}

/// A flow: the frames from one endpoint to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// Whose frames.
    pub source_endpoint_id: u32,
    /// To which MAC.
    pub target_mac: [u8; 6],
    /// Whose MAC that is.
    pub target_endpoint_id: u32,
    /// What happens to them.
    pub target: FlowTarget,
}

/// A program at a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the program: `ep_in`, `ul_in`, `vx_in`, `slow_in` or `seal_in`.
    pub program: String,
    /// The device.
    pub ifindex: u32,
}

/// The programs, maps and links of one host. Everything lives on in the kernel when this is dropped.
#[derive(Debug)]
pub struct Datapath {
    pins: Pins,
    programs: BTreeMap<&'static str, OwnedFd>,
    config: SharedConfig,
    cpus: usize,
    is_adopted: bool,
    is_in_step: bool,
    instance: u32,
    /// Rows of `port_counters` by endpoint, also of ports that are gone until their counters are forgotten.
    slots: HashMap<u32, u16>,
    /// The same by ifindex, of ports that are there.
    port_slots: HashMap<u32, u16>,
    slot_max: u16,
    ports: Table<u32, Port>,
    port_counters: Table<u32, Counters>,
    flows: Table<FlowKey, Flow>,
    fdb: Table<FdbKey, Fdb>,
    neigh: Table<NeighKey, Neigh>,
    guard: Table<GuardKey, Guard>,
    replication: Table<ReplicationKey, Replication>,
    peers: Table<PeerKey, Peer>,
    remotes: Table<RemoteKey, Remote>,
}

impl Datapath {
    /// Loads the programs, adopts the maps that are pinned or makes them, and puts the new programs in the place of
    /// the old ones, each between two packets. Links to devices that are gone are removed; nothing else is.
    pub fn open(config: &DatapathConfig) -> Result<Self, Error> {
        let pins = Pins::open(&config.pin_dir)?;
        pins.check_maps(&config.limits)?;
        let programs = load(&pins, &config.limits)?;
        let config_map = pins.open_map("config")?;
        let instance = sys::map_info(config_map.as_fd())
            .map_err(|source| Error::Machine { what: "the map config", source })?
            .id;
        let datapath = Self {
            config: SharedConfig::map(config_map.as_fd())?,
            cpus: sys::possible_cpus()
                .map_err(|source| Error::Machine { what: "the number of CPUs", source })?,
            programs,
            is_adopted: false,
            is_in_step: false,
            instance,
            slots: HashMap::new(),
            port_slots: HashMap::new(),
            slot_max: u16::try_from(config.limits.ports).unwrap_or(u16::MAX),
            ports: Table::new("ports", pins.open_map("ports")?),
            port_counters: Table::new("port_counters", pins.open_map("port_counters")?),
            flows: Table::new("flows", pins.open_map("flows")?),
            fdb: Table::new("fdb", pins.open_map("fdb")?),
            neigh: Table::new("neigh", pins.open_map("neigh")?),
            guard: Table::new("guard", pins.open_map("guard")?),
            replication: Table::new("replication", pins.open_map("replication")?),
            peers: Table::new("peers", pins.open_map("peers")?),
            remotes: Table::new("remotes", pins.open_map("remotes")?),
            pins,
        };
        let is_adopted = datapath.config.abi().swap(ABI, Ordering::Relaxed) == ABI;
        if !is_adopted {
            datapath.config.generation().store(1, Ordering::Relaxed);
        }
        datapath.config.vxlan_port().store(u32::from(config.vxlan_port), Ordering::Relaxed);
        datapath.renew_links()?;
        let rows = datapath.ports.rows()?;
        let slots = rows.iter().map(|(_, port)| (port.endpoint_id, port.slot)).collect();
        let port_slots = rows.iter().map(|(ifindex, port)| (*ifindex, port.slot)).collect();
        Ok(Self { is_adopted, slots, port_slots, ..datapath })
    }

    /// Whether the maps were there already, with what an earlier process wrote.
    pub fn is_adopted(&self) -> bool {
        self.is_adopted
    }

    /// A number that changes when the maps are made anew, unique until the machine boots.
    pub fn instance(&self) -> u32 {
        self.instance
    }

    /// Removes the programs, links and maps that a process with other layouts left. Its programs come before these at
    /// each device and go on by its tables until then: to be called when everything that is wanted is written and
    /// attached.
    pub fn remove_other_versions(&self) -> Result<(), Error> {
        self.pins.remove_other_versions()
    }

    /// Tells the programs that the shuttle lives. To be called at least once a second: after two seconds they keep no
    /// packets for it and trust no header that it should keep current.
    pub fn beat(&self) {
        self.config.heartbeat_ns().store(sys::monotonic_ns(), Ordering::Relaxed);
    }

    /// Makes a device or a client a port, or changes the port that it is.
    pub fn attach_port(&mut self, spec: &PortSpec<'_>) -> Result<(), Error> {
        let endpoint = spec.endpoint;
        let ifindex = match endpoint.location {
            Location::Peer { ifindex } | Location::Device { ifindex } => ifindex,
            Location::Client { endpoint_id } => client_number(endpoint_id),
            Location::Host { .. } => return Err(Error::NoDevice { ifindex: 0 }),
        };
        let (ip4, ip6) = endpoint.inline_addresses();
        let mut flags = 0;
        if endpoint.has_more_sources() {
            flags |= PORT_MORE_SOURCES;
        }
        if !endpoint.allowed_prefixes.is_empty() {
            flags |= PORT_ROUTES;
        }
        let slot = self.take_slot(endpoint.endpoint_id)?;
        self.ports.put(
            &ifindex,
            &Port {
                endpoint_id: endpoint.endpoint_id,
                vni: endpoint.vni,
                mac: endpoint.mac,
                mtu: spec.mtu,
                flags,
                slot,
                ip4,
                ip6,
                miss: spec.miss_rate.budget(),
                error: spec.error_rate.budget(),
                replicate: spec.replicate_rate.budget(),
            },
        )?;
        self.port_slots.insert(ifindex, slot);
        self.name_slot(endpoint, ifindex, slot)?;
        match endpoint.location {
            Location::Client { .. } => Ok(()),
            _ => self.attach(EP_IN, ifindex),
        }
    }

    /// Ends a port and tells whether there was one. Its counters stay until [`Datapath::forget_counters`]; flows to it
    /// go when its endpoint leaves the tables.
    pub fn detach_port(&mut self, ifindex: u32) -> Result<bool, Error> {
        self.detach(EP_IN, ifindex)?;
        self.port_slots.remove(&ifindex);
        Ok(self.ports.remove(&ifindex)?)
    }

    /// Every port, by ifindex or what stands in for one.
    pub fn ports(&self) -> Result<BTreeMap<u32, Port>, Error> {
        Ok(self.ports.rows()?.into_iter().collect())
    }

    /// Attaches what belongs at a device that is no port. There is one VXLAN device and one TAP of each kind: another
    /// one takes the place of the one before.
    pub fn attach_device(&mut self, role: DeviceRole, ifindex: u32) -> Result<(), Error> {
        self.attach(role.program(), ifindex)?;
        let slot = match role {
            DeviceRole::Underlay => return Ok(()),
            DeviceRole::Vxlan => self.config.vxlan_ifindex(),
            DeviceRole::Slow => self.config.slow_ifindex(),
            DeviceRole::Seal => self.config.seal_ifindex(),
        };
        let before = slot.swap(ifindex, Ordering::Relaxed);
        if before != 0 && before != ifindex {
            self.detach(role.program(), before)?;
        }
        Ok(())
    }

    /// Detaches a device that is no port.
    pub fn detach_device(&mut self, role: DeviceRole, ifindex: u32) -> Result<(), Error> {
        self.detach(role.program(), ifindex)
    }

    /// Everything that is attached, ports and devices.
    pub fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        let links = self.pins.links()?;
        Ok(links.into_iter().map(|(program, ifindex)| Attachment { program, ifindex }).collect())
    }

    /// Ends every port but these, and every device but these: the sweep after everything that is wanted has been
    /// written and attached.
    pub fn retain(
        &mut self,
        ports: &BTreeSet<u32>,
        devices: &BTreeSet<(DeviceRole, u32)>,
    ) -> Result<(), Error> {
        for (ifindex, _) in self.ports()? {
            if !ports.contains(&ifindex) {
                self.detach_port(ifindex)?;
            }
        }
        for Attachment { program, ifindex } in self.attachments()? {
            let is_kept = DeviceRole::ALL
                .iter()
                .any(|&role| role.program() == program && devices.contains(&(role, ifindex)));
            if program != EP_IN && !is_kept {
                self.detach(&program, ifindex)?;
            }
        }
        Ok(())
    }

    /// Writes another host, or what changed of it. Takes effect at once: to be called before the tables name the host.
    pub fn put_peer(&mut self, spec: &PeerSpec) -> Result<(), Error> {
        let host_id = spec.host_id;
        let key = peer_key(host_id, spec.carrier.carrier());
        let PeerCarrier::Vxlan { local, remote, foreign, path } = spec.carrier else {
            return Ok(self.peers.put(&key, &Peer { mtu: spec.mtu, ..Peer::default() })?);
        };
        let before = self.peers.get(&key)?;
        let remote_ip = mapped(remote);
        let mut peer = Peer {
            remote_ip,
            local_ip: mapped(local),
            mtu: spec.mtu,
            flags: if remote.is_ipv6() { PEER_IP6 } else { 0 },
            ..Peer::default()
        };
        if let (PeerPath::Header { ifindex, source_mac, target_mac }, true) =
            (path, remote.is_ipv4())
        {
            peer = Peer { ifindex, source_mac, target_mac, flags: PEER_RESOLVED, ..peer };
        }
        self.peers.put(&key, &peer)?;
        let flags = if foreign { REMOTE_FOREIGN } else { 0 };
        self.remotes.put(
            &RemoteKey { ip: remote_ip },
            &Remote { host_id, flags, local_ip: peer.local_ip },
        )?;
        match before {
            Some(before) if before.remote_ip != remote_ip => {
                self.remove_remote(host_id, before.remote_ip)
            }
            _ => Ok(()),
        }
    }

    /// Takes another host's carrier away, at once: to be called after the tables have ceased to name it.
    pub fn remove_peer(&mut self, host_id: u32, carrier: Carrier) -> Result<(), Error> {
        let key = peer_key(host_id, carrier);
        if let Some(peer) = self.peers.get(&key)? {
            if carrier == Carrier::Vxlan {
                self.remove_remote(host_id, peer.remote_ip)?;
            }
            self.peers.remove(&key)?;
        }
        Ok(())
    }

    /// The other hosts that are written, by their carriers.
    pub fn peers(&self) -> Result<BTreeSet<(u32, Carrier)>, Error> {
        let rows = self.peers.rows()?.into_iter();
        let carrier = |key: &PeerKey| {
            Carrier::ALL.into_iter().find(|carrier| u32::from(carrier.via()) == key.via)
        };
        Ok(rows.filter_map(|(key, _)| Some((key.host_id, carrier(&key)?))).collect())
    }

    /// Underlay addresses from which frames are taken; IPv4 in its own form.
    pub fn underlay_addresses(&self) -> Result<BTreeSet<IpAddr>, Error> {
        let rows = self.remotes.rows()?.into_iter();
        Ok(rows.map(|(key, _)| IpAddr::from(key.ip).to_canonical()).collect())
    }

    /// Puts these tables in the place of whatever is there, all at once for every packet. Flows of endpoints that are
    /// the same before and after stay. On an error the tables in force have not changed.
    pub fn replace_world(&mut self, world: &Delta) -> Result<(), Error> {
        let world = &self.with_slots(world);
        let active = self.active();
        self.is_in_step = false;
        let changed = self.endpoints_other_than(active, world)?;
        self.fill_half(1 - active, world)?;
        self.flip();
        self.delete_flows_of(&changed)?;
        sys::wait_for_programs();
        self.fill_half(active, world)?;
        self.is_in_step = true;
        Ok(())
    }

    /// Changes the tables, all at once for every packet, and removes the flows of endpoints that went. On an error the
    /// tables in force have not changed, and [`Datapath::replace_world`] is needed next.
    pub fn apply_world(&mut self, delta: &Delta) -> Result<(), Error> {
        if !self.is_in_step {
            return Err(Error::NotInStep);
        }
        let delta = &self.with_slots(delta);
        let active = self.active();
        self.is_in_step = false;
        self.write_half(1 - active, delta)?;
        self.flip();
        self.delete_flows_of(&delta.stale_endpoints)?;
        sys::wait_for_programs();
        self.write_half(active, delta)?;
        self.is_in_step = true;
        Ok(())
    }

    /// Writes flows. The caller makes sure that they follow from the tables in force.
    pub fn put_flows(&mut self, flows: &[FlowSpec]) -> Result<(), Error> {
        let generation = self.config.generation().load(Ordering::Relaxed);
        let now_s = u32::try_from(sys::monotonic_ns() / 1_000_000_000).unwrap_or(u32::MAX);
        let rows: Vec<_> = flows
            .iter()
            .map(|spec| {
                let (key, row) = flow_row(spec, generation, now_s);
                (key, Flow { slot: self.slot_of(row.via, row.target), ..row })
            })
            .collect();
        Ok(self.flows.put_all(&rows)?)
    }

    /// Removes flows and tells how many were there.
    pub fn delete_flows(&mut self, keys: &[FlowKey]) -> Result<usize, Error> {
        Ok(self.flows.remove_all(keys)?)
    }

    /// Removes every flow, at once for every packet.
    pub fn delete_all_flows(&mut self) -> Result<usize, Error> {
        self.config.generation().fetch_add(1, Ordering::Relaxed);
        let keys: Vec<_> = self.flows.rows()?.into_iter().map(|(key, _)| key).collect();
        self.delete_flows(&keys)
    }

    /// Every flow.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Flow)>, Error> {
        Ok(self.flows.rows()?)
    }

    /// What was counted for an endpoint that is a port here, or was one since this was opened.
    pub fn counters(&self, endpoint_id: u32) -> Result<Option<Counters>, Error> {
        self.slots.get(&endpoint_id).map(|&slot| self.sum_counters(slot)).transpose()
    }

    /// What was counted where the port is not known: frames from other hosts that were not delivered, frames at devices
    /// that are no ports.
    pub fn host_counters(&self) -> Result<Counters, Error> {
        self.sum_counters(HOST_SLOT)
    }

    /// Forgets the counters of an endpoint that is no port here any more; of one that is they stay.
    pub fn forget_counters(&mut self, endpoint_id: u32) {
        let is_port = |slot: &u16| self.port_slots.values().any(|other| other == slot);
        if !self.slots.get(&endpoint_id).is_some_and(is_port) {
            self.slots.remove(&endpoint_id);
        }
    }

    /// The row of `port_counters` that an endpoint has, or a free one of zeros.
    fn take_slot(&mut self, endpoint_id: u32) -> Result<u16, Error> {
        if let Some(&slot) = self.slots.get(&endpoint_id) {
            return Ok(slot);
        }
        let taken: BTreeSet<_> = self.slots.values().collect();
        let slot = (HOST_SLOT + 1..=self.slot_max)
            .find(|slot| !taken.contains(slot))
            .ok_or(TableError::Full { map: "port_counters" })?;
        self.port_counters.put_zero_per_cpu(&u32::from(slot), self.cpus)?;
        self.slots.insert(endpoint_id, slot);
        Ok(slot)
    }

    /// Tells the rows of an endpoint that came before its port where to count.
    fn name_slot(&self, endpoint: &Endpoint, ifindex: u32, slot: u16) -> Result<(), Error> {
        for half in [0, 1] {
            let key = FdbKey { vni: endpoint.vni, mac: endpoint.mac, half };
            match self.fdb.get(&key)? {
                Some(row) if row.via != VIA_HOST && row.target == ifindex && row.slot != slot => {
                    self.fdb.put(&key, &Fdb { slot, ..row })?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Where frames to a target are counted.
    fn slot_of(&self, via: u8, target: u32) -> u16 {
        let is_host = matches!(via, VIA_HOST | VIA_SEALED);
        let port = if is_host { None } else { self.port_slots.get(&target) };
        port.copied().unwrap_or(HOST_SLOT)
    }

    /// The same changes with the slots of the ports in them.
    fn with_slots(&self, delta: &Delta) -> Delta {
        let mut delta = delta.clone();
        for row in delta.fdb.values_mut().flatten() {
            row.slot = self.slot_of(row.via, row.target);
        }
        delta
    }

    fn sum_counters(&self, slot: u16) -> Result<Counters, Error> {
        let values = self.port_counters.get_per_cpu(&u32::from(slot), self.cpus)?;
        Ok(values.iter().flatten().fold(Counters::default(), |mut sum, value| {
            sum.add(value);
            sum
        }))
    }

    /// Puts the new programs into the links that are pinned.
    fn renew_links(&self) -> Result<(), Error> {
        for (program, ifindex) in self.pins.links()? {
            let Some((&name, fd)) = self.programs.get_key_value(program.as_str()) else {
                self.detach(&program, ifindex)?;
                continue;
            };
            if !self.renew_link(name, fd.as_fd(), ifindex)? {
                self.detach(name, ifindex)?;
            }
        }
        Ok(())
    }

    /// Puts a program into a pinned link and tells whether there was one to a living device.
    fn renew_link(
        &self,
        name: &'static str,
        program: BorrowedFd<'_>,
        ifindex: u32,
    ) -> Result<bool, Error> {
        let attach_error = |source| Error::Attach { program: name, ifindex, source };
        let link = match sys::open_pin(&self.pins.link(name, ifindex)) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(attach_error(error)),
        };
        // The index may have gone to another device since.
        if sys::link_info(link.as_fd()).map_err(attach_error)?.ifindex != ifindex {
            return Ok(false);
        }
        match sys::link_update(link.as_fd(), program) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
            Err(error) => Err(attach_error(error)),
        }
    }

    fn attach(&self, name: &'static str, ifindex: u32) -> Result<(), Error> {
        let program = self.programs[name].as_fd();
        if self.renew_link(name, program, ifindex)? {
            return Ok(());
        }
        self.detach(name, ifindex)?;
        let link =
            sys::link_create(program, ifindex).map_err(|source| match source.raw_os_error() {
                Some(libc::ENODEV) => Error::NoDevice { ifindex },
                _ => Error::Attach { program: name, ifindex, source },
            })?;
        sys::pin(link.as_fd(), &self.pins.link(name, ifindex)).map_err(|source| Error::Attach {
            program: name,
            ifindex,
            source,
        })
    }

    /// The pin is the only reference to a link.
    fn detach(&self, name: &str, ifindex: u32) -> Result<(), Error> {
        let path = self.pins.link(name, ifindex);
        unpin(&path).map_err(|source| Error::PinDirectory { path, source })
    }

    /// The row of an address belongs to whoever wrote it last.
    fn remove_remote(&self, host_id: u32, ip: [u8; 16]) -> Result<(), Error> {
        let key = RemoteKey { ip };
        if self.remotes.get(&key)?.is_some_and(|remote| remote.host_id == host_id) {
            self.remotes.remove(&key)?;
        }
        Ok(())
    }

    fn active(&self) -> u32 {
        self.config.active().load(Ordering::Relaxed)
    }

    fn flip(&self) {
        self.config.active().fetch_xor(1, Ordering::Release);
    }

    /// Endpoints whose row in a half is not the same in `world`, or is not there.
    fn endpoints_other_than(&self, half: u32, world: &Delta) -> Result<BTreeSet<u32>, Error> {
        let rows = self.fdb.rows()?;
        Ok(rows
            .into_iter()
            .filter(|(key, _)| u32::from(key.half) == half)
            .filter(|(key, row)| {
                world.fdb.get(&FdbKey { half: 0, ..*key }).copied().flatten() != Some(*row)
            })
            .map(|(_, row)| row.endpoint_id)
            .collect())
    }

    /// Makes a half that no program reads the same as `world`.
    fn fill_half(&self, half: u32, world: &Delta) -> Result<(), Error> {
        fill(&self.fdb, self.fdb.rows()?.into_iter().map(first), &world.fdb, half)?;
        fill(&self.neigh, self.neigh.rows()?.into_iter().map(first), &world.neigh, half)?;
        fill(&self.guard, self.guard.keys()?.into_iter(), &world.guard, half)?;
        let networks = self.replication.rows()?.into_iter().map(first);
        fill(&self.replication, networks, &world.replication, half)
    }

    /// Changes a half that no program reads.
    fn write_half(&self, half: u32, delta: &Delta) -> Result<(), Error> {
        write(&self.fdb, &delta.fdb, half)?;
        write(&self.neigh, &delta.neigh, half)?;
        write(&self.guard, &delta.guard, half)?;
        write(&self.replication, &delta.replication, half)
    }

    fn delete_flows_of(&mut self, endpoints: &BTreeSet<u32>) -> Result<(), Error> {
        if endpoints.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = self
            .flows
            .rows()?
            .into_iter()
            .filter(|(key, flow)| {
                endpoints.contains(&key.source_endpoint_id)
                    || endpoints.contains(&flow.target_endpoint_id)
            })
            .map(first)
            .collect();
        self.delete_flows(&keys)?;
        Ok(())
    }
}

#[cfg(feature = "testrun")]
impl Datapath {
    /// The programs, to be run on packets of a test's own.
    pub(crate) fn program(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.programs.get(name).map(AsFd::as_fd)
    }

    /// Where the maps are pinned.
    pub(crate) fn map_pins(&self) -> &std::path::Path {
        &self.pins.maps
    }
}

/// Row of `port_counters` for frames whose port is not known.
const HOST_SLOT: u16 = 0;

const fn peer_key(host_id: u32, carrier: Carrier) -> PeerKey {
    PeerKey { host_id, via: carrier.via() as u32 }
}

/// A key of a table that exists twice.
trait Halved: Plain + Eq + Hash {
    fn in_half(self, half: u32) -> Self;
    fn half(&self) -> u32;
}

macro_rules! halved {
    ($($key:ty as $half:ty),*) => {$(
        impl Halved for $key {
            fn in_half(mut self, half: u32) -> Self {
                self.half = <$half>::try_from(half).expect("0 or 1");
                self
            }

            fn half(&self) -> u32 {
                u32::from(self.half)
            }
        }
    )*};
}

halved!(FdbKey as u16, NeighKey as u32, GuardKey as u32, ReplicationKey as u32);

fn write<K: Halved, V: Plain>(
    table: &Table<K, V>,
    changes: &HashMap<K, Option<V>>,
    half: u32,
) -> Result<(), Error> {
    let removed: Vec<_> = changes
        .iter()
        .filter(|(_, value)| value.is_none())
        .map(|(key, _)| key.in_half(half))
        .collect();
    let put: Vec<_> = changes
        .iter()
        .filter_map(|(key, value)| value.map(|value| (key.in_half(half), value)))
        .collect();
    table.remove_all(&removed)?;
    Ok(table.put_all(&put)?)
}

fn fill<K: Halved, V: Plain>(
    table: &Table<K, V>,
    present: impl Iterator<Item = K>,
    wanted: &HashMap<K, Option<V>>,
    half: u32,
) -> Result<(), Error> {
    let surplus: Vec<_> = present
        .filter(|key| key.half() == half)
        .filter(|key| !matches!(wanted.get(&key.in_half(0)), Some(Some(_))))
        .collect();
    table.remove_all(&surplus)?;
    write(table, wanted, half)
}

fn first<K, V>((key, _): (K, V)) -> K {
    key
}

fn flow_row(spec: &FlowSpec, generation: u32, now_s: u32) -> (FlowKey, Flow) {
    let (target, via, reason) = match spec.target {
        FlowTarget::To(location) => {
            let (target, via) = location.target();
            (target, via, 0)
        }
        FlowTarget::Sealed { host_id } => (host_id, VIA_SEALED, 0),
        FlowTarget::Drop(reason) => (0, VIA_DROP, reason as u8),
    };
    (
        FlowKey {
            source_endpoint_id: spec.source_endpoint_id,
            target_mac: spec.target_mac,
            pad: 0,
        },
        Flow {
            generation,
            target_endpoint_id: spec.target_endpoint_id,
            target,
            via,
            reason,
            slot: HOST_SLOT,
            last_used_s: now_s,
        },
    )
}

/// Loads and verifies the programs; makes and pins the maps that are missing.
fn load(pins: &Pins, limits: &Limits) -> Result<BTreeMap<&'static str, OwnedFd>, Error> {
    fn load_error(source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Load { source: Box::new(source) }
    }
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&pins.maps);
    for shape in &crate::pins::MAPS {
        if let Some(rows) = limits.rows(shape.name) {
            loader.map_max_entries(shape.name, rows);
        }
    }
    let mut object = loader.load(OBJECT).map_err(load_error)?;
    let names = [EP_IN].into_iter().chain(DeviceRole::ALL.map(DeviceRole::program));
    names
        .map(|name| {
            let program: &mut SchedClassifier = object
                .program_mut(name)
                .ok_or(Error::Incomplete { kind: "program", name })?
                .try_into()
                .map_err(load_error)?;
            program.load().map_err(load_error)?;
            let fd = program.fd().map_err(load_error)?.as_fd().try_clone_to_owned();
            Ok((name, fd.map_err(load_error)?))
        })
        .collect()
}

/// The map `config`, shared with the programs. Every field is written as a whole.
#[derive(Debug)]
struct SharedConfig {
    page: NonNull<Config>,
}

// SAFETY: the page is reached by atomics only, and lives as long as this.
unsafe impl Send for SharedConfig {}
// SAFETY: as above.
unsafe impl Sync for SharedConfig {}

/// Bytes of the mapping: an array of one small value takes a page.
const PAGE_BYTES: usize = 4_096;

macro_rules! shared_fields {
    ($($field:ident: $atomic:ty),*) => {$(
        fn $field(&self) -> &$atomic {
            // SAFETY: the field is inside the mapping, aligned, and never reached in another way.
            unsafe { <$atomic>::from_ptr(&raw mut (*self.page.as_ptr()).$field) }
        }
    )*};
}

impl SharedConfig {
    fn map(map: BorrowedFd<'_>) -> Result<Self, Error> {
        // SAFETY: a new shared mapping of a map made with BPF_F_MMAPABLE, whose pages the kernel keeps for it.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if page == libc::MAP_FAILED {
            let source = io::Error::last_os_error();
            return Err(Error::Machine { what: "the map config", source });
        }
        Ok(Self { page: NonNull::new(page.cast()).expect("a mapping is not at 0") })
    }

    shared_fields! {
        abi: AtomicU32,
        active: AtomicU32,
        generation: AtomicU32,
        vxlan_port: AtomicU32,
        heartbeat_ns: AtomicU64,
        vxlan_ifindex: AtomicU32,
        slow_ifindex: AtomicU32,
        seal_ifindex: AtomicU32
    }
}

impl Drop for SharedConfig {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, which nobody uses after this.
        unsafe { libc::munmap(self.page.as_ptr().cast(), PAGE_BYTES) };
    }
}
