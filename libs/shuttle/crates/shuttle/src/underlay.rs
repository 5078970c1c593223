//! The devices that carry frames to other hosts, and the way to each of those.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use serde_json::json;
use weft_abi::Carrier;
use weft_engine::{Peer, PeerKey, PeerKind};
use weft_io::{Links, Neighbour, NetlinkError, NextHop, Offloads, Routes};
use weft_kernel::{Datapath, DeviceRole, PeerCarrier, PeerPath, PeerSpec};

use crate::failure::Failure;
use crate::log;

/// Bytes that VXLAN puts before an inner IP packet: Ethernet 14, VXLAN 8, UDP 8, and IPv4 20 or
/// IPv6 40.
const VXLAN_BYTES_IPV4: u32 = 50;
const VXLAN_BYTES_IPV6: u32 = 70;

/// Largest IP packet that fits a sealed path of which nothing else is known: of 1,500 bytes IPv6
/// takes 40, UDP 8, the header and tag of `WireGuard` 32, Geneve 8 and its options FLOW, SEG and SEQ
/// 12 each, and Ethernet 14.
const SEALED_MTU_BYTES: u16 = 1_500 - 40 - 8 - 32 - 8 - 3 * 12 - 14;

/// A device that carries frames to other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mtu_bytes: u32,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) offloads: Offloads,
}

impl Device {
    /// Whether the programs build and strip VXLAN headers here, rather than the kernel's VXLAN
    /// device.
    ///
    /// A device that neither takes super-packets in VXLAN whole nor joins what it receives brings
    /// every segment by itself; then the kernel's device, which joins segments itself, is faster by
    /// a tenth. In all other cases the programs are faster by a fifth and more.
    pub(crate) const fn is_by_programs(&self) -> bool {
        self.mac.is_some() && (self.offloads.udp_tunnel_segmentation || self.offloads.gro)
    }

    /// Why.
    pub(crate) const fn reason(&self) -> &'static str {
        match (self.mac.is_some(), self.offloads.udp_tunnel_segmentation, self.offloads.gro) {
            (false, ..) => "it carries no Ethernet",
            (_, true, _) => "it takes super-packets in VXLAN whole",
            (_, _, true) => "it joins what it receives",
            _ => "neither tx-udp_tnl-segmentation nor GRO is on",
        }
    }
}

/// What the kernel was told about other hosts.
#[derive(Debug, Default)]
pub(crate) struct Underlay {
    devices: BTreeMap<u32, Device>,
    specs: HashMap<PeerKey, PeerSpec>,
    /// What sessions have shown to fit the way to a host.
    sealed_mtus: HashMap<u32, u16>,
    next_hops: HashSet<(u32, IpAddr)>,
    managed: HashSet<(u32, IpAddr)>,
}

impl Underlay {
    /// The devices in use, by index.
    pub(crate) const fn devices(&self) -> &BTreeMap<u32, Device> {
        &self.devices
    }

    /// Whether a change of this neighbour concerns the way to some host.
    pub(crate) fn is_next_hop(&self, ifindex: u32, address: IpAddr) -> bool {
        self.next_hops.contains(&(ifindex, address))
    }

    /// Takes the largest IP packet that fits the sealed way to a host, whether the host is in the tables
    /// already or not.
    pub(crate) fn set_sealed_mtu(
        &mut self,
        host_id: u32,
        mtu: u16,
        datapath: &mut Datapath,
    ) -> Result<(), Failure> {
        self.sealed_mtus.insert(host_id, mtu);
        let carrier = PeerCarrier::Sealed;
        if self.specs.contains_key(&(host_id, carrier.carrier())) {
            self.put(PeerSpec { host_id, mtu, carrier }, datapath)?;
        }
        Ok(())
    }

    /// Forgets a carrier of a host.
    pub(crate) fn remove(&mut self, peer: PeerKey, datapath: &mut Datapath) -> Result<(), Failure> {
        self.specs.remove(&peer);
        if peer.1 == Carrier::Sealed {
            self.sealed_mtus.remove(&peer.0);
        }
        Ok(datapath.remove_peer(peer.0, peer.1)?)
    }

    /// Looks at addresses, routes and neighbours anew and tells the kernel what is different.
    pub(crate) fn refresh<'a>(
        &mut self,
        peers: impl Iterator<Item = &'a Peer>,
        links: &mut Links,
        routes: &mut Routes,
        datapath: &mut Datapath,
    ) -> Result<(), Failure> {
        let addresses = routes.addresses()?;
        let mut survey = Survey { links, devices: BTreeMap::new() };
        let mut ways = Vec::new();
        for peer in peers {
            let PeerKind::Vxlan { local_address: local, remote_address: remote, is_foreign } =
                peer.kind
            else {
                let (host_id, carrier) = (peer.host_id, PeerCarrier::Sealed);
                let mtu = self.sealed_mtus.get(&host_id).copied().unwrap_or(SEALED_MTU_BYTES);
                self.put(PeerSpec { host_id, mtu, carrier }, datapath)?;
                continue;
            };
            let own = addresses.iter().find(|address| address.address == local);
            if let Some(own) = own {
                survey.add(own.ifindex)?;
            }
            let hop = routes.next_hop(local, remote)?;
            if let Some(hop) = hop {
                survey.add(hop.ifindex)?;
            }
            ways.push((peer.host_id, local, remote, is_foreign, hop));
        }
        let mut devices = survey.devices;
        for (ifindex, device) in &mut devices {
            let own = addresses.iter().filter(|address| address.ifindex == *ifindex);
            device.addresses = own.map(|address| address.address).collect();
        }
        self.attach(&devices, datapath)?;
        self.next_hops.clear();
        for (host_id, local, remote, foreign, hop) in ways {
            let device = hop.and_then(|hop| devices.get(&hop.ifindex));
            let path = match (hop, device) {
                (Some(hop), Some(device)) if remote.is_ipv4() => self.path(hop, device, routes),
                _ => PeerPath::Device,
            };
            let mtu = inner_mtu(remote, hop, device);
            let carrier = PeerCarrier::Vxlan { local, remote, foreign, path };
            self.put(PeerSpec { host_id, mtu, carrier }, datapath)?;
        }
        self.devices = devices;
        Ok(())
    }

    fn put(&mut self, spec: PeerSpec, datapath: &mut Datapath) -> Result<(), Failure> {
        let key = (spec.host_id, spec.carrier.carrier());
        if self.specs.get(&key) != Some(&spec) {
            datapath.put_peer(&spec)?;
            self.specs.insert(key, spec);
        }
        Ok(())
    }

    fn path(&mut self, hop: NextHop, device: &Device, routes: &mut Routes) -> PeerPath {
        self.next_hops.insert((hop.ifindex, hop.neighbour));
        let (Some(source_mac), true) = (device.mac, device.is_by_programs()) else {
            return PeerPath::Device;
        };
        match self.next_hop_mac(hop, routes) {
            Ok(Some(target_mac)) => {
                PeerPath::Header { ifindex: hop.ifindex, source_mac, target_mac }
            }
            Ok(None) => PeerPath::Device,
            Err(error) => {
                log::warn(
                    "the MAC of a gateway is not known",
                    json!({ "error": error.to_string() }),
                );
                PeerPath::Device
            }
        }
    }

    /// Asked of the kernel, which is told to keep the answer fresh: the programs' own packets would
    /// not make it do so.
    fn next_hop_mac(
        &mut self,
        hop: NextHop,
        routes: &mut Routes,
    ) -> Result<Option<[u8; 6]>, NetlinkError> {
        let neighbour = routes.neighbour(hop.ifindex, hop.neighbour)?;
        if self.managed.insert((hop.ifindex, hop.neighbour)) || neighbour == Neighbour::Missing {
            routes.manage_neighbour(hop.ifindex, hop.neighbour)?;
        }
        Ok(match neighbour {
            Neighbour::Known(mac) => Some(mac),
            Neighbour::Sought | Neighbour::Missing => None,
        })
    }

    fn attach(
        &self,
        devices: &BTreeMap<u32, Device>,
        datapath: &mut Datapath,
    ) -> Result<(), Failure> {
        let by_programs = |devices: &BTreeMap<u32, Device>| -> BTreeSet<u32> {
            devices
                .iter()
                .filter(|(_, device)| device.is_by_programs())
                .map(|(ifindex, _)| *ifindex)
                .collect()
        };
        let (before, wanted) = (by_programs(&self.devices), by_programs(devices));
        for ifindex in wanted.difference(&before) {
            datapath.attach_device(DeviceRole::Underlay, *ifindex)?;
        }
        for ifindex in before.difference(&wanted) {
            datapath.detach_device(DeviceRole::Underlay, *ifindex)?;
        }
        for (ifindex, device) in
            devices.iter().filter(|(ifindex, device)| self.devices.get(ifindex) != Some(device))
        {
            log::info(
                "underlay device in use",
                json!({
                    "device": device.name,
                    "ifindex": ifindex,
                    "by": if device.is_by_programs() { "ebpf" } else { "device" },
                    "reason": device.reason(),
                }),
            );
        }
        Ok(())
    }
}

/// Devices as they are looked at, each once.
struct Survey<'a> {
    links: &'a mut Links,
    devices: BTreeMap<u32, Device>,
}

impl Survey<'_> {
    fn add(&mut self, ifindex: u32) -> Result<(), Failure> {
        if self.devices.contains_key(&ifindex) {
            return Ok(());
        }
        if let Some(link) = self.links.get(ifindex)? {
            // A device that went away in between has none, and its removal makes us look again.
            let offloads = weft_io::offloads(&link.name).unwrap_or_default();
            let (name, mtu_bytes, mac) = (link.name, link.mtu_bytes, link.mac);
            self.devices
                .insert(ifindex, Device { name, addresses: Vec::new(), mtu_bytes, mac, offloads });
        }
        Ok(())
    }
}

fn inner_mtu(remote: IpAddr, hop: Option<NextHop>, device: Option<&Device>) -> u16 {
    let overhead = if remote.is_ipv4() { VXLAN_BYTES_IPV4 } else { VXLAN_BYTES_IPV6 };
    let link = device.map_or(1500, |device| device.mtu_bytes);
    let path = hop.and_then(|hop| hop.mtu_bytes).map_or(link, |mtu| mtu.min(link));
    u16::try_from(path.saturating_sub(overhead)).unwrap_or(u16::MAX)
}
