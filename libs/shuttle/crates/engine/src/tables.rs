//! The forwarding tables as the forwarder gave them, what the kernel's rows follow from them, and
//! which flows depend on what.
//!
//! A change is planned first ([`Tables::plan`]), which alters nothing, then written to the kernel
//! by the caller, and only then taken over ([`Tables::commit`]): what is refused, or fails
//! half-way, leaves the tables as they were.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;
use weft_abi::{CLIENT_BIT, Carrier, Carriers, client_endpoint};

use crate::flows::{Flow, FlowTarget};
use crate::packet::Mac;

/// Largest VNI: 24 bits (RFC 7348, 5).
const VNI_MAX: u32 = (1 << 24) - 1;
/// Least MTU of a network: what IPv6 demands of a link (RFC 8200, 5).
const MTU_BYTES_MIN: u32 = 1280;
/// Largest MTU: a frame with its headers must stay below the 65,535 bytes of an outer IP packet.
const MTU_BYTES_MAX: u32 = 65_000;

/// A virtual layer-2 segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Never 0.
    pub network_id: u32,
    /// Unique among the networks.
    pub vni: u32,
    /// Largest IP packet.
    pub mtu_bytes: u32,
    /// Source of IPv4 errors.
    pub gateway_ipv4: Option<Ipv4Addr>,
    /// Source of IPv6 errors.
    pub gateway_ipv6: Option<Ipv6Addr>,
}

/// An IP prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// 0..=32 or 0..=128, by the family.
    pub length_bits: u8,
}

/// What is or may be attached to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Never 0.
    pub endpoint_id: u32,
    /// The network that it belongs to.
    pub network_id: u32,
    /// Unique in the network.
    pub mac: Mac,
    /// Unique in the network, of either family.
    pub addresses: Vec<IpAddr>,
    /// What it may send from beside its addresses, because it routes.
    pub allowed_prefixes: Vec<Prefix>,
    /// The host where it was observed; 0 while that is not known.
    pub host_id: u32,
}

/// Another host by one carrier. A host may have an entry of each, with networks of its own. A
/// network in both is taken by either, and its broadcasts go sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Never 0.
    pub host_id: u32,
    /// What carries frames to it.
    pub kind: PeerKind,
    /// Networks whose frames go to it and are taken from it by this carrier.
    pub network_ids: BTreeSet<u32>,
}

/// A carrier with what is to be known for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// VXLAN, in the clear.
    Vxlan {
        /// Underlay address of this host for frames to it.
        local_address: IpAddr,
        /// Its underlay address, of the same family.
        remote_address: IpAddr,
        /// A plain VXLAN device without a shuttle.
        is_foreign: bool,
    },
    /// The shuttle, which seals and knows where the host is.
    Sealed,
}

/// Name of a peer: host and carrier.
pub type PeerKey = (u32, Carrier);

impl Peer {
    /// Its name.
    pub const fn key(&self) -> PeerKey {
        match self.kind {
            PeerKind::Vxlan { .. } => (self.host_id, Carrier::Vxlan),
            PeerKind::Sealed => (self.host_id, Carrier::Sealed),
        }
    }
}

/// One change to the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds or replaces a network.
    PutNetwork(Network),
    /// Removes a network; harmless when there is none.
    DeleteNetwork(u32),
    /// Adds or replaces an endpoint.
    PutEndpoint(Endpoint),
    /// Removes an endpoint; harmless when there is none.
    DeleteEndpoint(u32),
    /// Adds or replaces another host's entry of a carrier.
    PutPeer(Peer),
    /// Removes another host's entry of a carrier, or of all; harmless when there is none.
    DeletePeer(u32, Option<Carrier>),
}

/// A port of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The endpoint as it was attached; the tables' own entry comes before it.
    pub endpoint: Endpoint,
    /// Its network as it was when it was attached; the tables' own entry comes before it.
    pub network: Network,
    /// The device on the host's side, or what stands in for one ([`weft_abi::client_number`]).
    pub ifindex: u32,
    /// The device's other end is in another network namespace.
    pub is_peer: bool,
}

/// Where frames to an endpoint go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A port of this host.
    Port {
        /// The device on the host's side, or what stands in for one ([`weft_abi::client_number`]).
        ifindex: u32,
        /// The device's other end is in another network namespace.
        is_peer: bool,
    },
    /// Another host.
    Host(u32),
}

/// An endpoint as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// VNI of its network.
    pub vni: u32,
    /// Where it is.
    pub place: Place,
    /// Of one at another host: the carriers that take the frames of its network there, and by which
    /// they are taken from it.
    pub carriers: Carriers,
}

/// Where a network's broadcasts go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Devices of its ports here, in order; clients get none.
    pub ifindexes: Vec<u32>,
    /// Other hosts that get them by VXLAN, in order.
    pub host_ids: Vec<u32>,
    /// Other hosts that get them sealed, in order.
    pub sealed_host_ids: Vec<u32>,
}

/// Why changes were refused. Nothing of them is in force then.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TableError {
    /// The changes build on tables that are not in force.
    #[error(
        "the changes build on revision {base} but revision {current} is in force; send everything, with base revision 0"
    )]
    WrongBase {
        /// The revision that they build on.
        base: u64,
        /// The revision in force, 0 for none.
        current: u64,
    },
    /// Revisions only grow.
    #[error("revision {revision} does not follow {base}; revisions grow")]
    NotLater {
        /// The revision that they lead to.
        revision: u64,
        /// The revision that they build on.
        base: u64,
    },
    /// One of the entries cannot be.
    #[error("{entry}: {problem}")]
    BadEntry {
        /// The entry, for example `endpoint 7`.
        entry: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What to write to the kernel so that it follows the planned tables.
#[derive(Debug, Default)]
pub struct KernelChanges {
    /// Rows to take away, as they were put; some of them come again in [`Self::put`].
    pub removed: Vec<Row>,
    /// Rows to put.
    pub put: Vec<Row>,
    /// Members by VNI; `None` takes the network away.
    pub members: BTreeMap<u32, Option<Members>>,
    /// Peers to put.
    pub put_peers: Vec<Peer>,
    /// Peers that are no more.
    pub removed_peers: Vec<PeerKey>,
    /// Endpoints whose port has another MTU, MAC or allowance.
    pub ports: Vec<u32>,
}

impl KernelChanges {
    /// Whether the kernel has everything already.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty()
            && self.put.is_empty()
            && self.members.is_empty()
            && self.put_peers.is_empty()
            && self.removed_peers.is_empty()
            && self.ports.is_empty()
    }
}

/// Changes that may come into force.
#[derive(Debug)]
pub struct Plan {
    revision: u64,
    local_host_id: u32,
    is_full: bool,
    networks: HashMap<u32, Option<Network>>,
    endpoints: HashMap<u32, Option<Endpoint>>,
    peers: HashMap<PeerKey, Option<Peer>>,
    ports: HashMap<u32, Option<Port>>,
    rows: HashMap<u32, Option<Row>>,
    members: HashMap<u32, Option<Members>>,
    touched_hosts: HashSet<u32>,
    /// What to write to the kernel.
    pub kernel: KernelChanges,
}

/// What came into force.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Endpoints whose rows changed: flows from and to them are void.
    pub endpoint_ids: HashSet<u32>,
    /// Other hosts whose carrier changed: flows to their endpoints are void.
    pub host_ids: HashSet<u32>,
}

/// Why a flow cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowRefusal {
    /// It was decided on tables that have changed since in what concerns it.
    Stale,
    /// Its source has no port here, or its target is no endpoint of the same network.
    Unknown,
    /// It sends where its target is not, or by a carrier that does not take its network there.
    Contradicts,
}

/// The tables in force.
#[derive(Debug, Default)]
pub struct Tables {
    revision: u64,
    local_host_id: u32,
    networks: HashMap<u32, Network>,
    endpoints: HashMap<u32, Endpoint>,
    peers: HashMap<PeerKey, Peer>,
    ports: HashMap<u32, Port>,
    rows: HashMap<u32, Row>,
    by_mac: HashMap<(u32, Mac), u32>,
    addresses: HashSet<(u32, IpAddr)>,
    members: HashMap<u32, Members>,
    /// Revision that last touched an endpoint's row.
    touched_endpoints: HashMap<u32, u64>,
    /// Revision that last touched the way to another host.
    touched_hosts: HashMap<u32, u64>,
    /// Flows decided before the last full replacement are stale.
    floor_revision: u64,
}

impl Tables {
    /// The revision in force, 0 while there is none.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// This host's id, 0 while it is not known.
    pub const fn local_host_id(&self) -> u32 {
        self.local_host_id
    }

    /// The ports of this host.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.values()
    }

    /// The port of an endpoint.
    pub fn port(&self, endpoint_id: u32) -> Option<&Port> {
        self.ports.get(&endpoint_id)
    }

    /// An endpoint as the kernel has it.
    pub fn row(&self, endpoint_id: u32) -> Option<&Row> {
        self.rows.get(&endpoint_id)
    }

    /// The endpoint and network of a port as they count now.
    pub fn port_facts(&self, endpoint_id: u32) -> Option<(&Endpoint, &Network)> {
        let port = self.ports.get(&endpoint_id)?;
        let endpoint = self.endpoints.get(&endpoint_id).unwrap_or(&port.endpoint);
        let network = self.networks.get(&endpoint.network_id).unwrap_or(&port.network);
        Some((endpoint, network))
    }

    /// The endpoint and network of a port as they will count with a plan.
    pub fn port_facts_with<'a>(
        &'a self,
        plan: &'a Plan,
        endpoint_id: u32,
    ) -> Option<(&'a Port, &'a Endpoint, &'a Network)> {
        let port = lookup(&plan.ports, &self.ports, endpoint_id)?;
        let endpoint =
            lookup(&plan.endpoints, &self.endpoints, endpoint_id).unwrap_or(&port.endpoint);
        let network =
            lookup(&plan.networks, &self.networks, endpoint.network_id).unwrap_or(&port.network);
        Some((port, endpoint, network))
    }

    /// The endpoint with this MAC in the network of another.
    pub fn neighbour(&self, endpoint_id: u32, mac: Mac) -> Option<u32> {
        let vni = self.rows.get(&endpoint_id)?.vni;
        self.by_mac.get(&(vni, mac)).copied()
    }

    /// Whether some endpoint has this address in the network of another.
    pub fn has_address(&self, endpoint_id: u32, address: IpAddr) -> bool {
        self.rows.get(&endpoint_id).is_some_and(|row| self.addresses.contains(&(row.vni, address)))
    }

    /// Other hosts, by each of their carriers.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// The VNIs of the networks whose frames a carrier takes to a host and from it, in ascending order.
    pub fn vnis_of_peer(&self, key: PeerKey) -> Vec<u32> {
        let network_ids = self.peers.get(&key).map(|peer| &peer.network_ids);
        let networks = network_ids.into_iter().flatten().filter_map(|id| self.networks.get(id));
        let mut vnis: Vec<u32> = networks.map(|network| network.vni).collect();
        vnis.sort_unstable();
        vnis
    }

    /// Everything that will be in force with a plan, for a kernel that may have anything.
    pub fn everything_with(&self, plan: &Plan) -> KernelChanges {
        KernelChanges {
            put_peers: self.peers_with(plan).cloned().collect(),
            put: merged(&self.rows, &plan.rows).map(|(_, row)| row.clone()).collect(),
            members: merged(&self.members, &plan.members)
                .map(|(vni, members)| (vni, Some(members.clone())))
                .collect(),
            ports: merged(&self.ports, &plan.ports).map(|(id, _)| id).collect(),
            ..KernelChanges::default()
        }
    }

    /// The other hosts that there will be with a plan.
    pub fn peers_with<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a Peer> {
        merged(&self.peers, &plan.peers).map(|(_, peer)| peer)
    }

    /// Plans a new revision. With base 0 the changes are all there is: what they do not name goes.
    pub fn plan(
        &self,
        base: u64,
        revision: u64,
        local_host_id: u32,
        changes: Vec<Change>,
    ) -> Result<Plan, TableError> {
        if base != 0 && base != self.revision {
            return Err(TableError::WrongBase { base, current: self.revision });
        }
        if revision <= base {
            return Err(TableError::NotLater { revision, base });
        }
        let mut plan = Plan::new(revision, local_host_id, base == 0);
        if plan.is_full {
            plan.networks = self.networks.keys().map(|id| (*id, None)).collect();
            plan.endpoints = self.endpoints.keys().map(|id| (*id, None)).collect();
            plan.peers = self.peers.keys().map(|key| (*key, None)).collect();
        }
        for change in changes {
            match change {
                Change::PutNetwork(network) => {
                    plan.networks.insert(network.network_id, Some(network)).map(drop)
                }
                Change::DeleteNetwork(id) => plan.networks.insert(id, None).map(drop),
                Change::PutEndpoint(endpoint) => {
                    plan.endpoints.insert(endpoint.endpoint_id, Some(endpoint)).map(drop)
                }
                Change::DeleteEndpoint(id) => plan.endpoints.insert(id, None).map(drop),
                Change::PutPeer(peer) => plan.peers.insert(peer.key(), Some(peer)).map(drop),
                Change::DeletePeer(id, carrier) => {
                    let is_meant = |it: &Carrier| carrier.is_none_or(|carrier| carrier == *it);
                    let gone = Carrier::ALL.into_iter().filter(is_meant);
                    plan.peers.extend(gone.map(|carrier| ((id, carrier), None)));
                    None
                }
            };
        }
        plan.networks.retain(|id, network| network.as_ref() != self.networks.get(id));
        plan.endpoints.retain(|id, endpoint| endpoint.as_ref() != self.endpoints.get(id));
        plan.peers.retain(|key, peer| peer.as_ref() != self.peers.get(key));
        self.derive(&mut plan)?;
        Ok(plan)
    }

    /// Plans a port, at the revision in force.
    pub fn plan_port(&self, endpoint_id: u32, port: Option<Port>) -> Result<Plan, TableError> {
        let mut plan = Plan::new(self.revision, self.local_host_id, false);
        plan.ports.insert(endpoint_id, port);
        self.derive(&mut plan)?;
        Ok(plan)
    }

    /// Brings a plan into force.
    pub fn commit(&mut self, plan: Plan) -> Committed {
        if plan.is_full {
            self.floor_revision = plan.revision;
            self.touched_endpoints.clear();
            self.touched_hosts.clear();
        }
        self.revision = plan.revision;
        self.local_host_id = plan.local_host_id;
        overlay(&mut self.networks, plan.networks);
        overlay(&mut self.endpoints, plan.endpoints);
        overlay(&mut self.peers, plan.peers);
        overlay(&mut self.ports, plan.ports);
        overlay(&mut self.members, plan.members);
        let committed = Committed {
            endpoint_ids: plan.rows.keys().copied().collect(),
            host_ids: plan.touched_hosts,
        };
        for row in plan.rows.keys().filter_map(|id| self.rows.get(id)) {
            self.by_mac.remove(&(row.vni, row.endpoint.mac));
            for address in &row.endpoint.addresses {
                self.addresses.remove(&(row.vni, *address));
            }
        }
        for row in plan.rows.values().flatten() {
            self.by_mac.insert((row.vni, row.endpoint.mac), row.endpoint.endpoint_id);
            self.addresses.extend(row.endpoint.addresses.iter().map(|address| (row.vni, *address)));
        }
        overlay(&mut self.rows, plan.rows);
        for id in &committed.endpoint_ids {
            if self.rows.contains_key(id) {
                self.touched_endpoints.insert(*id, plan.revision)
            } else {
                self.touched_endpoints.remove(id)
            };
        }
        for id in &committed.host_ids {
            if Carrier::ALL.iter().any(|carrier| self.peers.contains_key(&(*id, *carrier))) {
                self.touched_hosts.insert(*id, plan.revision)
            } else {
                self.touched_hosts.remove(id)
            };
        }
        committed
    }

    /// Whether a flow that was decided on the tables of its revision can be.
    pub fn check_flow(&self, flow: &Flow) -> Result<(), FlowRefusal> {
        let source = self.rows.get(&flow.source_endpoint_id).ok_or(FlowRefusal::Unknown)?;
        let target = self.rows.get(&flow.target_endpoint_id).ok_or(FlowRefusal::Unknown)?;
        let is_port = self.ports.contains_key(&flow.source_endpoint_id);
        if !is_port
            || source.vni != target.vni
            || flow.source_endpoint_id == flow.target_endpoint_id
        {
            return Err(FlowRefusal::Unknown);
        }
        if flow.table_revision < self.touched_revision(flow, target) {
            return Err(FlowRefusal::Stale);
        }
        let is_possible = match (flow.target, target.place) {
            (FlowTarget::Port, Place::Port { .. }) | (FlowTarget::Drop(_), _) => true,
            (FlowTarget::Host(host_id), Place::Host(place)) => {
                host_id == place && target.carriers.contains(Carrier::Vxlan)
            }
            (FlowTarget::Sealed(host_id), Place::Host(place)) => {
                host_id == place && target.carriers.contains(Carrier::Sealed)
            }
            (FlowTarget::Port, Place::Host(_))
            | (FlowTarget::Host(_) | FlowTarget::Sealed(_), Place::Port { .. }) => false,
        };
        if is_possible { Ok(()) } else { Err(FlowRefusal::Contradicts) }
    }

    fn touched_revision(&self, flow: &Flow, target: &Row) -> u64 {
        let endpoint = |id: &u32| self.touched_endpoints.get(id).copied().unwrap_or(0);
        let host = match target.place {
            Place::Host(id) => self.touched_hosts.get(&id).copied().unwrap_or(0),
            Place::Port { .. } => 0,
        };
        self.floor_revision
            .max(endpoint(&flow.source_endpoint_id))
            .max(endpoint(&flow.target_endpoint_id))
            .max(host)
    }

    /// Checks the planned entries and works out what the kernel's rows become.
    fn derive(&self, plan: &mut Plan) -> Result<(), TableError> {
        self.check(plan)?;
        for id in self.affected_endpoints(plan) {
            let row = self.planned_row(plan, id);
            if row.as_ref() != self.rows.get(&id) {
                plan.rows.insert(id, row);
            }
        }
        self.check_unique(plan)?;
        let vnis = self.affected_vnis(plan);
        let members = self.planned_members(plan, &vnis);
        plan.members = members
            .into_iter()
            .filter(|(vni, members)| members.as_ref() != self.members.get(vni))
            .collect();
        plan.touched_hosts = plan.peers.keys().map(|(host_id, _)| *host_id).collect();

        let mut changes = KernelChanges {
            removed: plan.rows.keys().filter_map(|id| self.rows.get(id).cloned()).collect(),
            put: plan.rows.values().flatten().cloned().collect(),
            members: plan.members.iter().map(|(vni, members)| (*vni, members.clone())).collect(),
            ..KernelChanges::default()
        };
        for (key, peer) in &plan.peers {
            match peer {
                Some(peer) => changes.put_peers.push(peer.clone()),
                None => changes.removed_peers.push(*key),
            }
        }
        let kept_ports = self.ports.keys().filter(|id| !plan.ports.contains_key(id));
        changes.ports = kept_ports
            .filter(|id| plan.endpoints.contains_key(id) || self.network_changes(plan, **id))
            .copied()
            .collect();
        plan.kernel = changes;
        Ok(())
    }

    fn network_changes(&self, plan: &Plan, endpoint_id: u32) -> bool {
        self.port_facts(endpoint_id)
            .is_some_and(|(endpoint, _)| plan.networks.contains_key(&endpoint.network_id))
    }

    fn affected_endpoints(&self, plan: &Plan) -> BTreeSet<u32> {
        let mut affected: BTreeSet<u32> =
            plan.endpoints.keys().chain(plan.ports.keys()).copied().collect();
        if plan.is_full || plan.local_host_id != self.local_host_id {
            affected.extend(self.endpoints.keys().chain(self.ports.keys()));
            return affected;
        }
        let recarried = self.recarried_networks(plan);
        if !recarried.is_empty() {
            let is_of = |e: &&Endpoint| recarried.contains(&(e.host_id, e.network_id));
            affected.extend(self.endpoints.values().filter(is_of).map(|e| e.endpoint_id));
        }
        if !plan.networks.is_empty() {
            let is_in = |endpoint: &Endpoint| plan.networks.contains_key(&endpoint.network_id);
            affected.extend(self.endpoints.values().filter(|e| is_in(e)).map(|e| e.endpoint_id));
            affected.extend(
                self.ports.values().filter(|p| is_in(&p.endpoint)).map(|p| p.endpoint.endpoint_id),
            );
        }
        affected
    }

    /// Hosts with networks that a carrier takes there which did not, or the other way round.
    fn recarried_networks(&self, plan: &Plan) -> HashSet<(u32, u32)> {
        let none = BTreeSet::new();
        let mut recarried = HashSet::new();
        for (key, peer) in &plan.peers {
            let before = self.peers.get(key).map_or(&none, |peer| &peer.network_ids);
            let after = peer.as_ref().map_or(&none, |peer| &peer.network_ids);
            recarried.extend(before.symmetric_difference(after).map(|id| (key.0, *id)));
        }
        recarried
    }

    fn planned_carriers(&self, plan: &Plan, host_id: u32, network_id: u32) -> Carriers {
        let carries = |carrier: &Carrier| {
            lookup(&plan.peers, &self.peers, (host_id, *carrier))
                .is_some_and(|peer| peer.network_ids.contains(&network_id))
        };
        Carrier::ALL.into_iter().filter(carries).collect()
    }

    /// An endpoint has a row where its network is known, and it has a port here or was observed at
    /// another host.
    fn planned_row(&self, plan: &Plan, id: u32) -> Option<Row> {
        let port = lookup(&plan.ports, &self.ports, id);
        let endpoint =
            lookup(&plan.endpoints, &self.endpoints, id).or(port.map(|port| &port.endpoint))?;
        let network = lookup(&plan.networks, &self.networks, endpoint.network_id).or(port
            .map(|port| &port.network)
            .filter(|network| network.network_id == endpoint.network_id))?;
        let place = match port {
            Some(port) => Place::Port { ifindex: port.ifindex, is_peer: port.is_peer },
            None if endpoint.host_id == 0 || endpoint.host_id == plan.local_host_id => return None,
            None => Place::Host(endpoint.host_id),
        };
        let carriers = match place {
            Place::Port { .. } => Carriers::default(),
            Place::Host(host_id) => self.planned_carriers(plan, host_id, endpoint.network_id),
        };
        Some(Row { endpoint: endpoint.clone(), vni: network.vni, place, carriers })
    }

    fn affected_vnis(&self, plan: &Plan) -> BTreeSet<u32> {
        let mut vnis = BTreeSet::new();
        let is_port = |id: &u32| self.ports.contains_key(id) || plan.ports.contains_key(id);
        for (id, row) in plan.rows.iter().filter(|(id, _)| is_port(id)) {
            vnis.extend(self.rows.get(id).map(|row| row.vni));
            vnis.extend(row.as_ref().map(|row| row.vni));
        }
        let mut network_ids: BTreeSet<u32> = plan.networks.keys().copied().collect();
        for (key, peer) in &plan.peers {
            let before = self.peers.get(key);
            network_ids
                .extend(before.into_iter().chain(peer).flat_map(|peer| peer.network_ids.iter()));
        }
        // A port may be of a network that the tables do not have yet.
        let port_rows = self.ports.keys().filter_map(|id| self.rows.get(id));
        vnis.extend(
            port_rows
                .filter(|row| network_ids.contains(&row.endpoint.network_id))
                .map(|row| row.vni),
        );
        for id in network_ids {
            vnis.extend(self.networks.get(&id).map(|network| network.vni));
            vnis.extend(lookup(&plan.networks, &self.networks, id).map(|network| network.vni));
        }
        vnis
    }

    /// A network has members where it has a port here.
    fn planned_members(&self, plan: &Plan, vnis: &BTreeSet<u32>) -> HashMap<u32, Option<Members>> {
        let mut members: HashMap<u32, (u32, Members)> = HashMap::new();
        let port_ids: BTreeSet<u32> = self.ports.keys().chain(plan.ports.keys()).copied().collect();
        for id in port_ids {
            let row = plan.rows.get(&id).map_or_else(|| self.rows.get(&id), Option::as_ref);
            if let Some(Row { endpoint, vni, place: Place::Port { ifindex, .. }, .. }) = row
                && vnis.contains(vni)
            {
                let entry = members
                    .entry(*vni)
                    .or_insert_with(|| (endpoint.network_id, Members::default()));
                entry
                    .1
                    .ifindexes
                    .extend(Some(*ifindex).filter(|it| client_endpoint(*it).is_none()));
            }
        }
        let host_ids: BTreeSet<u32> =
            self.peers.keys().chain(plan.peers.keys()).map(|(host_id, _)| *host_id).collect();
        for host_id in host_ids {
            for (network_id, members) in members.values_mut() {
                let carriers = self.planned_carriers(plan, host_id, *network_id);
                if carriers.contains(Carrier::Sealed) {
                    members.sealed_host_ids.push(host_id);
                } else if carriers.contains(Carrier::Vxlan) {
                    members.host_ids.push(host_id);
                }
            }
        }
        vnis.iter().map(|vni| (*vni, members.remove(vni).map(|(_, members)| members))).collect()
    }

    fn check(&self, plan: &Plan) -> Result<(), TableError> {
        let mut vnis: HashMap<u32, u32> = HashMap::new();
        if !plan.networks.is_empty() {
            let kept = self
                .networks
                .values()
                .filter(|network| !plan.networks.contains_key(&network.network_id));
            vnis.extend(kept.map(|network| (network.vni, network.network_id)));
        }
        for network in plan.networks.values().flatten() {
            check_network(network)?;
            if let Some(other) = vnis.insert(network.vni, network.network_id) {
                return bad(
                    "network",
                    network.network_id,
                    format!("VNI {} is that of network {other} too", network.vni),
                );
            }
        }
        for endpoint in plan.endpoints.values().flatten() {
            check_endpoint(endpoint)?;
            if lookup(&plan.networks, &self.networks, endpoint.network_id).is_none() {
                let problem = format!("network {} is not in the tables", endpoint.network_id);
                return bad("endpoint", endpoint.endpoint_id, problem);
            }
        }
        if plan.networks.values().any(Option::is_none) {
            let kept = self
                .endpoints
                .values()
                .filter(|endpoint| !plan.endpoints.contains_key(&endpoint.endpoint_id));
            for endpoint in kept {
                if lookup(&plan.networks, &self.networks, endpoint.network_id).is_none() {
                    let problem = format!("it still has endpoint {}", endpoint.endpoint_id);
                    return bad("network", endpoint.network_id, problem);
                }
            }
        }
        for peer in plan.peers.values().flatten() {
            check_peer(peer, plan.local_host_id)?;
        }
        for port in plan.ports.values().flatten() {
            check_endpoint(&port.endpoint)?;
            check_network(&port.network)?;
        }
        Ok(())
    }

    /// Two endpoints of a network with one MAC would take each other's frames.
    fn check_unique(&self, plan: &Plan) -> Result<(), TableError> {
        let mut macs: HashMap<(u32, Mac), u32> = HashMap::new();
        for row in plan.rows.values().flatten() {
            let id = row.endpoint.endpoint_id;
            let key = (row.vni, row.endpoint.mac);
            let kept =
                self.by_mac.get(&key).copied().filter(|other| !plan.rows.contains_key(other));
            if let Some(other) = macs.insert(key, id).or(kept) {
                return bad(
                    "endpoint",
                    id,
                    format!("MAC {} is that of endpoint {other} too", row.endpoint.mac),
                );
            }
        }
        Ok(())
    }
}

impl Plan {
    /// The revision to which it leads.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    fn new(revision: u64, local_host_id: u32, is_full: bool) -> Self {
        Self {
            revision,
            local_host_id,
            is_full,
            networks: HashMap::new(),
            endpoints: HashMap::new(),
            peers: HashMap::new(),
            ports: HashMap::new(),
            rows: HashMap::new(),
            members: HashMap::new(),
            touched_hosts: HashSet::new(),
            kernel: KernelChanges::default(),
        }
    }
}

fn bad<T>(kind: &str, id: u32, problem: String) -> Result<T, TableError> {
    Err(TableError::BadEntry { entry: format!("{kind} {id}"), problem })
}

fn check_network(network: &Network) -> Result<(), TableError> {
    let id = network.network_id;
    if id == 0 {
        return bad("network", id, "0 is no id".into());
    }
    if network.vni == 0 || network.vni > VNI_MAX {
        return bad("network", id, format!("VNI {} is not in 1..={VNI_MAX}", network.vni));
    }
    if !(MTU_BYTES_MIN..=MTU_BYTES_MAX).contains(&network.mtu_bytes) {
        let problem =
            format!("MTU {} is not in {MTU_BYTES_MIN}..={MTU_BYTES_MAX}", network.mtu_bytes);
        return bad("network", id, problem);
    }
    Ok(())
}

fn check_endpoint(endpoint: &Endpoint) -> Result<(), TableError> {
    let id = endpoint.endpoint_id;
    if id == 0 || id >= CLIENT_BIT {
        return bad("endpoint", id, format!("{id} is no id"));
    }
    if endpoint.mac.is_group() || endpoint.mac == Mac([0; 6]) {
        return bad("endpoint", id, format!("{} is no MAC of one device", endpoint.mac));
    }
    let unusable = endpoint
        .addresses
        .iter()
        .find(|address| address.is_unspecified() || address.is_multicast());
    if let Some(address) = unusable {
        return bad("endpoint", id, format!("{address} is no address of one device"));
    }
    let is_too_long =
        |prefix: &&Prefix| prefix.length_bits > if prefix.address.is_ipv4() { 32 } else { 128 };
    if let Some(prefix) = endpoint.allowed_prefixes.iter().find(is_too_long) {
        return bad(
            "endpoint",
            id,
            format!("{}/{} is no prefix", prefix.address, prefix.length_bits),
        );
    }
    Ok(())
}

fn check_peer(peer: &Peer, local_host_id: u32) -> Result<(), TableError> {
    let id = peer.host_id;
    if id == 0 || id >= CLIENT_BIT || id == local_host_id {
        return bad("host", id, "it is no other host".into());
    }
    let PeerKind::Vxlan { local_address, remote_address, .. } = peer.kind else { return Ok(()) };
    if local_address.is_ipv4() != remote_address.is_ipv4() {
        let problem = format!("{local_address} and {remote_address} are of two families");
        return bad("host", id, problem);
    }
    let is_unusable = |address: IpAddr| address.is_unspecified() || address.is_multicast();
    if is_unusable(local_address) || is_unusable(remote_address) {
        let problem = format!("{local_address} and {remote_address} are no addresses of two hosts");
        return bad("host", id, problem);
    }
    Ok(())
}

fn lookup<'a, K: Copy + Eq + Hash, T>(
    planned: &'a HashMap<K, Option<T>>,
    current: &'a HashMap<K, T>,
    key: K,
) -> Option<&'a T> {
    planned.get(&key).map_or_else(|| current.get(&key), Option::as_ref)
}

fn merged<'a, K: Copy + Eq + Hash, T>(
    current: &'a HashMap<K, T>,
    planned: &'a HashMap<K, Option<T>>,
) -> impl Iterator<Item = (K, &'a T)> {
    let kept = current
        .iter()
        .filter(|(key, _)| !planned.contains_key(key))
        .map(|(key, value)| (*key, value));
    kept.chain(planned.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?))))
}

fn overlay<K: Eq + Hash, T>(current: &mut HashMap<K, T>, planned: HashMap<K, Option<T>>) {
    for (id, value) in planned {
        match value {
            Some(value) => current.insert(id, value),
            None => current.remove(&id),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: u32 = 1;
    const THERE: u32 = 2;

    fn network(network_id: u32) -> Network {
        Network {
            network_id,
            vni: 100 + network_id,
            mtu_bytes: 1320,
            gateway_ipv4: None,
            gateway_ipv6: None,
        }
    }

    fn endpoint(endpoint_id: u32, network_id: u32, host_id: u32) -> Endpoint {
        let last = u8::try_from(endpoint_id).unwrap();
        Endpoint {
            endpoint_id,
            network_id,
            mac: Mac([2, 0, 0, 0, 0, last]),
            addresses: vec![Ipv4Addr::new(10, 20, 0, last).into()],
            allowed_prefixes: Vec::new(),
            host_id,
        }
    }

    fn peer(host_id: u32, network_ids: &[u32]) -> Peer {
        Peer {
            host_id,
            kind: PeerKind::Vxlan {
                local_address: Ipv4Addr::new(192, 0, 2, 1).into(),
                remote_address: Ipv4Addr::new(192, 0, 2, u8::try_from(host_id).unwrap()).into(),
                is_foreign: false,
            },
            network_ids: network_ids.iter().copied().collect(),
        }
    }

    fn sealed_peer(host_id: u32, network_ids: &[u32]) -> Peer {
        Peer { kind: PeerKind::Sealed, ..peer(host_id, network_ids) }
    }

    fn port(endpoint_id: u32, network_id: u32) -> Port {
        let ifindex = 1000 + endpoint_id;
        Port {
            endpoint: endpoint(endpoint_id, network_id, HERE),
            network: network(network_id),
            ifindex,
            is_peer: true,
        }
    }

    fn flow(
        source_endpoint_id: u32,
        target_endpoint_id: u32,
        target: FlowTarget,
        table_revision: u64,
    ) -> Flow {
        Flow { source_endpoint_id, target_endpoint_id, target, table_revision }
    }

    /// Network 1 with ports 11 and 12 here and endpoint 13 at the other host, at revision 1.
    fn tables() -> Tables {
        let mut tables = Tables::default();
        for id in [11, 12] {
            tables.commit(tables.plan_port(id, Some(port(id, 1))).unwrap());
        }
        let changes = vec![
            Change::PutNetwork(network(1)),
            Change::PutPeer(peer(THERE, &[1])),
            Change::PutEndpoint(endpoint(11, 1, HERE)),
            Change::PutEndpoint(endpoint(12, 1, HERE)),
            Change::PutEndpoint(endpoint(13, 1, THERE)),
        ];
        tables.commit(tables.plan(0, 1, HERE, changes).unwrap());
        tables
    }

    fn places(tables: &Tables) -> Vec<(u32, Place)> {
        let mut places: Vec<_> = tables.rows.iter().map(|(id, row)| (*id, row.place)).collect();
        places.sort_unstable_by_key(|(id, _)| *id);
        places
    }

    fn here(endpoint_id: u32) -> Place {
        Place::Port { ifindex: 1000 + endpoint_id, is_peer: true }
    }

    #[test]
    fn endpoints_are_where_their_ports_or_hosts_are() {
        let tables = tables();
        assert_eq!(places(&tables), [(11, here(11)), (12, here(12)), (13, Place::Host(THERE))]);
        assert_eq!(
            tables.members[&101],
            Members { ifindexes: vec![1011, 1012], host_ids: vec![THERE], ..Members::default() }
        );
        assert_eq!(tables.neighbour(11, Mac([2, 0, 0, 0, 0, 13])), Some(13));
        assert!(tables.has_address(11, Ipv4Addr::new(10, 20, 0, 13).into()));
    }

    #[test]
    fn an_endpoint_that_nobody_has_seen_has_no_row() {
        let mut tables = tables();
        let changes = vec![
            Change::PutEndpoint(endpoint(14, 1, 0)),
            Change::PutEndpoint(endpoint(15, 1, HERE)),
        ];
        tables.commit(tables.plan(1, 2, HERE, changes).unwrap());
        assert!(tables.row(14).is_none() && tables.row(15).is_none());
    }

    #[test]
    fn a_network_without_a_port_here_takes_no_broadcasts() {
        let mut tables = tables();
        let changes = vec![Change::PutNetwork(network(2)), Change::PutPeer(peer(THERE, &[1, 2]))];
        tables.commit(tables.plan(1, 2, HERE, changes).unwrap());
        assert!(!tables.members.contains_key(&102));
        tables.commit(tables.plan_port(20, Some(port(20, 2))).unwrap());
        assert_eq!(
            (&tables.members[&102].ifindexes[..], &tables.members[&102].host_ids[..]),
            (&[1020][..], &[THERE][..])
        );
    }

    #[test]
    fn a_client_is_a_port_that_gets_no_broadcasts() {
        let mut tables = tables();
        let number = weft_abi::client_number(20);
        let client = Port { ifindex: number, is_peer: false, ..port(20, 1) };
        let changes = vec![Change::PutEndpoint(endpoint(20, 1, HERE))];
        tables.commit(tables.plan(1, 2, HERE, changes).unwrap());
        tables.commit(tables.plan_port(20, Some(client)).unwrap());
        assert_eq!(tables.row(20).unwrap().place, Place::Port { ifindex: number, is_peer: false });
        assert_eq!(tables.members[&101].ifindexes, [1011, 1012]);
        let alone = Port { ifindex: number, ..port(21, 2) };
        let changes = vec![Change::PutNetwork(network(2)), Change::PutPeer(peer(THERE, &[1, 2]))];
        tables.commit(tables.plan(2, 3, HERE, changes).unwrap());
        tables.commit(tables.plan_port(21, Some(alone)).unwrap());
        let members = &tables.members[&102];
        assert_eq!((&members.ifindexes[..], &members.host_ids[..]), (&[][..], &[THERE][..]));
    }

    #[test]
    fn a_plan_alters_nothing_until_it_is_committed() {
        let tables = tables();
        let plan = tables.plan(1, 2, HERE, vec![Change::DeleteEndpoint(13)]).unwrap();
        assert_eq!(
            plan.kernel.removed.iter().map(|row| row.endpoint.endpoint_id).collect::<Vec<_>>(),
            [13]
        );
        assert!(plan.kernel.put.is_empty());
        assert!(tables.row(13).is_some());
        assert_eq!(tables.revision(), 1);
    }

    #[test]
    fn what_does_not_change_costs_the_kernel_nothing() {
        let tables = tables();
        let same =
            vec![Change::PutEndpoint(endpoint(13, 1, THERE)), Change::PutPeer(peer(THERE, &[1]))];
        assert!(tables.plan(1, 2, HERE, same).unwrap().kernel.is_empty());
    }

    #[test]
    fn a_full_replacement_removes_what_it_does_not_name() {
        let mut tables = tables();
        let changes =
            vec![Change::PutNetwork(network(1)), Change::PutEndpoint(endpoint(11, 1, HERE))];
        let plan = tables.plan(0, 2, HERE, changes).unwrap();
        assert_eq!(plan.kernel.removed_peers, [(THERE, Carrier::Vxlan)]);
        tables.commit(plan);
        assert_eq!(
            places(&tables),
            [(11, here(11)), (12, here(12))],
            "a port stays while it is attached"
        );
    }

    #[test]
    fn a_change_on_other_tables_is_refused() {
        let tables = tables();
        assert_eq!(
            tables.plan(5, 6, HERE, Vec::new()).unwrap_err(),
            TableError::WrongBase { base: 5, current: 1 }
        );
        assert_eq!(
            tables.plan(1, 1, HERE, Vec::new()).unwrap_err(),
            TableError::NotLater { revision: 1, base: 1 }
        );
    }

    #[test]
    fn entries_that_cannot_be_are_refused_by_name() {
        let tables = tables();
        let other = endpoint(14, 1, THERE);
        let cases = [
            (Change::PutNetwork(Network { vni: 0, ..network(2) }), "network 2: VNI 0"),
            (Change::PutNetwork(Network { vni: 101, ..network(2) }), "VNI 101 is that of network"),
            (Change::PutNetwork(Network { mtu_bytes: 100, ..network(2) }), "network 2: MTU 100"),
            (Change::DeleteNetwork(1), "network 1: it still has endpoint"),
            (
                Change::PutEndpoint(Endpoint { network_id: 9, ..other.clone() }),
                "endpoint 14: network 9 is not in the tables",
            ),
            (
                Change::PutEndpoint(Endpoint { mac: Mac([1; 6]), ..other.clone() }),
                "endpoint 14: 01:01:01:01:01:01 is no MAC",
            ),
            (
                Change::PutEndpoint(Endpoint { mac: endpoint(13, 1, 0).mac, ..other }),
                "is that of endpoint 13 too",
            ),
            (Change::PutPeer(peer(HERE, &[1])), "host 1: it is no other host"),
            (Change::PutPeer(sealed_peer(0, &[1])), "host 0: it is no other host"),
            (
                Change::PutPeer(Peer { host_id: 1 << 31, ..sealed_peer(3, &[1]) }),
                "host 2147483648: it is no other host",
            ),
            (
                Change::PutEndpoint(Endpoint { endpoint_id: 1 << 31, ..endpoint(14, 1, THERE) }),
                "endpoint 2147483648: 2147483648 is no id",
            ),
            (
                Change::PutPeer(Peer {
                    kind: PeerKind::Vxlan {
                        local_address: Ipv6Addr::LOCALHOST.into(),
                        remote_address: Ipv4Addr::LOCALHOST.into(),
                        is_foreign: false,
                    },
                    ..peer(3, &[1])
                }),
                "two families",
            ),
        ];
        for (change, expected) in cases {
            let text = tables.plan(1, 2, HERE, vec![change.clone()]).unwrap_err().to_string();
            assert!(text.contains(expected), "{change:?}: {text}");
        }
    }

    #[test]
    fn two_endpoints_may_swap_their_macs() {
        let mut tables = tables();
        let (a, b) = (endpoint(12, 1, HERE), endpoint(13, 1, THERE));
        let changes = vec![
            Change::PutEndpoint(Endpoint { mac: b.mac, ..a.clone() }),
            Change::PutEndpoint(Endpoint { mac: a.mac, ..b.clone() }),
        ];
        tables.commit(tables.plan(1, 2, HERE, changes).unwrap());
        assert_eq!(tables.neighbour(11, b.mac), Some(12));
        assert_eq!(tables.neighbour(11, a.mac), Some(13));
    }

    #[test]
    fn a_flow_must_go_where_its_target_is() {
        let tables = tables();
        assert_eq!(tables.check_flow(&flow(11, 12, FlowTarget::Port, 1)), Ok(()));
        assert_eq!(tables.check_flow(&flow(11, 13, FlowTarget::Host(THERE), 1)), Ok(()));
        assert_eq!(
            tables.check_flow(&flow(11, 13, FlowTarget::Port, 1)),
            Err(FlowRefusal::Contradicts)
        );
        assert_eq!(
            tables.check_flow(&flow(11, 13, FlowTarget::Host(3), 1)),
            Err(FlowRefusal::Contradicts)
        );
        assert_eq!(
            tables.check_flow(&flow(13, 11, FlowTarget::Port, 1)),
            Err(FlowRefusal::Unknown)
        );
        assert_eq!(
            tables.check_flow(&flow(11, 99, FlowTarget::Port, 1)),
            Err(FlowRefusal::Unknown)
        );
    }

    #[test]
    fn flows_never_join_networks() {
        let mut tables = tables();
        tables.commit(tables.plan_port(20, Some(port(20, 2))).unwrap());
        assert_eq!(
            tables.check_flow(&flow(11, 20, FlowTarget::Port, 9)),
            Err(FlowRefusal::Unknown)
        );
    }

    #[test]
    fn a_flow_is_stale_when_what_it_depends_on_has_changed_since_and_only_then() {
        let mut tables = tables();
        let moved = vec![Change::PutPeer(peer(3, &[1])), Change::PutEndpoint(endpoint(13, 1, 3))];
        tables.commit(tables.plan(1, 2, HERE, moved).unwrap());
        assert_eq!(
            tables.check_flow(&flow(11, 13, FlowTarget::Host(3), 1)),
            Err(FlowRefusal::Stale)
        );
        assert_eq!(tables.check_flow(&flow(11, 13, FlowTarget::Host(3), 2)), Ok(()));
        assert_eq!(tables.check_flow(&flow(11, 12, FlowTarget::Port, 1)), Ok(()));
    }

    #[test]
    fn a_host_without_the_network_carries_no_flow_of_it() {
        let mut tables = tables();
        let committed = tables
            .commit(tables.plan(1, 2, HERE, vec![Change::PutPeer(peer(THERE, &[]))]).unwrap());
        assert_eq!(committed.host_ids, HashSet::from([THERE]));
        assert_eq!(
            tables.check_flow(&flow(11, 13, FlowTarget::Host(THERE), 2)),
            Err(FlowRefusal::Contradicts)
        );
    }

    /// Applies changes and gives what they are for the kernel.
    fn apply(tables: &mut Tables, changes: Vec<Change>) -> KernelChanges {
        let revision = tables.revision();
        let mut plan = tables.plan(revision, revision + 1, HERE, changes).unwrap();
        let kernel = std::mem::take(&mut plan.kernel);
        tables.commit(plan);
        kernel
    }

    fn carriers(tables: &Tables, endpoint_id: u32) -> Vec<Carrier> {
        let row = tables.row(endpoint_id).unwrap();
        Carrier::ALL.into_iter().filter(|carrier| row.carriers.contains(*carrier)).collect()
    }

    fn refusals(tables: &Tables) -> [Result<(), FlowRefusal>; 2] {
        [FlowTarget::Host(THERE), FlowTarget::Sealed(THERE)]
            .map(|target| tables.check_flow(&flow(11, 13, target, tables.revision())))
    }

    #[test]
    fn each_network_of_a_host_has_the_carrier_that_lists_it() {
        let mut tables = tables();
        tables.commit(tables.plan_port(20, Some(port(20, 2))).unwrap());
        let changes = vec![
            Change::PutNetwork(network(2)),
            Change::PutPeer(sealed_peer(THERE, &[2])),
            Change::PutEndpoint(endpoint(23, 2, THERE)),
        ];
        apply(&mut tables, changes);
        assert_eq!(carriers(&tables, 13), [Carrier::Vxlan]);
        assert_eq!(carriers(&tables, 23), [Carrier::Sealed]);
        assert_eq!(carriers(&tables, 20), [], "a port's frames come by no carrier");
        assert_eq!(
            (&tables.members[&101].host_ids[..], &tables.members[&101].sealed_host_ids[..]),
            (&[THERE][..], &[][..])
        );
        assert_eq!(
            (&tables.members[&102].host_ids[..], &tables.members[&102].sealed_host_ids[..]),
            (&[][..], &[THERE][..])
        );
        assert_eq!(refusals(&tables), [Ok(()), Err(FlowRefusal::Contradicts)]);
        let revision = tables.revision();
        for (target, expected) in [
            (FlowTarget::Host(THERE), Err(FlowRefusal::Contradicts)),
            (FlowTarget::Sealed(THERE), Ok(())),
            (FlowTarget::Sealed(3), Err(FlowRefusal::Contradicts)),
            (FlowTarget::Port, Err(FlowRefusal::Contradicts)),
        ] {
            assert_eq!(tables.check_flow(&flow(20, 23, target, revision)), expected, "{target:?}");
        }
        let sealed_port = flow(11, 12, FlowTarget::Sealed(THERE), revision);
        assert_eq!(tables.check_flow(&sealed_port), Err(FlowRefusal::Contradicts));
    }

    #[test]
    fn a_network_that_is_to_be_sealed_is_taken_in_the_clear_no_more() {
        let mut tables = tables();
        let changes =
            vec![Change::PutPeer(peer(THERE, &[])), Change::PutPeer(sealed_peer(THERE, &[1]))];
        let kernel = apply(&mut tables, changes);
        assert_eq!(
            kernel.removed.iter().map(|row| row.endpoint.endpoint_id).collect::<Vec<_>>(),
            [13],
            "flows to it are void"
        );
        assert_eq!(carriers(&tables, 13), [Carrier::Sealed]);
        assert_eq!(refusals(&tables), [Err(FlowRefusal::Contradicts), Ok(())]);
        assert_eq!(kernel.members[&101].as_ref().unwrap().sealed_host_ids, [THERE]);
    }

    #[test]
    fn a_network_of_both_carriers_is_taken_by_either_and_broadcasts_go_sealed() {
        let mut tables = tables();
        apply(&mut tables, vec![Change::PutPeer(sealed_peer(THERE, &[1]))]);
        assert_eq!(carriers(&tables, 13), Carrier::ALL);
        assert_eq!(refusals(&tables), [Ok(()), Ok(())]);
        let members = &tables.members[&101];
        assert_eq!((&members.host_ids[..], &members.sealed_host_ids[..]), (&[][..], &[THERE][..]));
    }

    #[test]
    fn one_carrier_of_a_host_goes_without_the_other() {
        let mut tables = tables();
        apply(&mut tables, vec![Change::PutPeer(sealed_peer(THERE, &[1]))]);
        let kernel = apply(&mut tables, vec![Change::DeletePeer(THERE, Some(Carrier::Vxlan))]);
        assert_eq!(kernel.removed_peers, [(THERE, Carrier::Vxlan)]);
        assert_eq!(carriers(&tables, 13), [Carrier::Sealed]);
        let kernel = apply(&mut tables, vec![Change::DeletePeer(THERE, None)]);
        assert_eq!(kernel.removed_peers, [(THERE, Carrier::Sealed)]);
        assert_eq!(carriers(&tables, 13), []);
        assert_eq!(refusals(&tables), [Err(FlowRefusal::Contradicts); 2]);
    }

    #[test]
    fn a_host_that_moves_costs_its_endpoints_no_rows() {
        let mut tables = tables();
        let moved = Peer {
            kind: PeerKind::Vxlan {
                local_address: Ipv4Addr::new(192, 0, 2, 1).into(),
                remote_address: Ipv4Addr::new(192, 0, 2, 77).into(),
                is_foreign: false,
            },
            ..peer(THERE, &[1])
        };
        let kernel = apply(&mut tables, vec![Change::PutPeer(moved)]);
        assert_eq!((kernel.removed.len(), kernel.put.len(), kernel.put_peers.len()), (0, 0, 1));
    }

    #[test]
    fn another_mtu_is_written_to_the_ports_of_the_network_alone() {
        let mut tables = tables();
        tables.commit(tables.plan_port(20, Some(port(20, 2))).unwrap());
        let changes = vec![Change::PutNetwork(Network { mtu_bytes: 1400, ..network(1) })];
        let plan = tables.plan(1, 2, HERE, changes).unwrap();
        let mut ports = plan.kernel.ports.clone();
        ports.sort_unstable();
        assert_eq!(ports, [11, 12]);
        assert_eq!(tables.port_facts_with(&plan, 11).unwrap().2.mtu_bytes, 1400);
    }

    fn any_carrier() -> impl Strategy<Value = Option<Carrier>> {
        proptest::sample::select(vec![None, Some(Carrier::Vxlan), Some(Carrier::Sealed)])
    }

    fn any_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (1..4u32).prop_map(|id| Change::PutNetwork(network(id))),
            (1..4u32).prop_map(Change::DeleteNetwork),
            (10..20u32, 1..4u32, 0..4u32)
                .prop_map(|(id, net, host)| Change::PutEndpoint(endpoint(id, net, host))),
            (10..20u32).prop_map(Change::DeleteEndpoint),
            (2..4u32, any::<bool>(), proptest::collection::vec(1..4u32, 0..3)).prop_map(
                |(id, is_sealed, nets)| Change::PutPeer(if is_sealed {
                    sealed_peer(id, &nets)
                } else {
                    peer(id, &nets)
                })
            ),
            (2..4u32, any_carrier()).prop_map(|(id, carrier)| Change::DeletePeer(id, carrier)),
        ]
    }

    proptest! {
        /// However tables came about, they are what one full replacement by the same entries makes.
        #[test]
        fn steps_lead_where_a_full_replacement_leads(
            steps in proptest::collection::vec((proptest::collection::vec(any_change(), 0..4), 10..20u32, any::<bool>()), 1..20),
        ) {
            let mut tables = Tables::default();
            let mut kernel: HashMap<u32, Row> = HashMap::new();
            tables.commit(tables.plan(0, 1, HERE, Vec::new()).unwrap());
            for (changes, port_id, is_attach) in steps {
                let plan = match tables.plan(tables.revision(), tables.revision() + 1, HERE, changes) {
                    Ok(plan) => plan,
                    Err(_) => match tables.plan_port(port_id, is_attach.then(|| port(port_id, 1 + port_id % 3))) {
                        Ok(plan) => plan,
                        Err(_) => continue,
                    },
                };
                for row in &plan.kernel.removed {
                    prop_assert_eq!(kernel.remove(&row.endpoint.endpoint_id), Some(row.clone()));
                }
                for row in &plan.kernel.put {
                    prop_assert!(kernel.insert(row.endpoint.endpoint_id, row.clone()).is_none());
                }
                tables.commit(plan);
                prop_assert_eq!(&kernel, &tables.rows);
            }
            let mut fresh = Tables::default();
            for port in tables.ports() {
                fresh.commit(fresh.plan_port(port.endpoint.endpoint_id, Some(port.clone())).unwrap());
            }
            let networks = tables.networks.values().cloned().map(Change::PutNetwork);
            let endpoints = tables.endpoints.values().cloned().map(Change::PutEndpoint);
            let peers = tables.peers.values().cloned().map(Change::PutPeer);
            fresh.commit(fresh.plan(0, tables.revision(), HERE, networks.chain(endpoints).chain(peers).collect()).unwrap());
            prop_assert_eq!(&fresh.rows, &tables.rows);
            prop_assert_eq!(&fresh.members, &tables.members);
            prop_assert_eq!(&fresh.by_mac, &tables.by_mac);
            prop_assert_eq!(&fresh.addresses, &tables.addresses);
        }
    }
}
