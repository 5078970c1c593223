//! The data plane as the forwarder drives it: engine, kernel and devices held together.
//!
//! Locks are taken in the order `attaching`, `kernel`, `engine`. Whoever changes what is in force
//! holds `kernel` from the look at the tables to the last write, so that no flow is written on
//! tables that have just gone. The slow thread takes `engine` alone, for microseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Notify;
use weft_abi::{CLIENT_BIT, Carrier, Carriers, Counters, client_endpoint, client_number};
use weft_engine::{
    Change, Engine, Flow, FlowKey, FlowTarget, KernelChanges, Members, Miss, Peer, PeerKey, Place,
    Plan, Port, Row, SlowFrame,
};
use weft_io::{InnerDevice, Link, Links, NetlinkError, Routes, Tap};
use weft_kernel::{Datapath, DatapathConfig, Delta, DeviceRole, FlowSpec, Location, PortSpec};

use crate::config::Config;
use crate::convert;
use crate::failure::Failure;
use crate::log;
use crate::parking::{Parking, SEAL_TAP, SLOW_TAP};
use crate::proto::{self, attach_port_request::Attachment};
use crate::state::{SavedPort, State, StateFile};
use crate::underlay::{Device, Underlay};

/// Name of an endpoint's device in its namespace where none is asked for.
const INNER_DEVICE_DEFAULT: &str = "eth0";
/// A device's name has 15 bytes.
const DEVICE_NAME_BYTES_MAX: usize = 15;
/// Frames that wait to be sealed: 64 MiB of super-packets, and while one process follows another 100 ms of
/// 10,000 packets a second: a busy machine may need as long to start it. More would be waiting, not speed.
/// The length is not changed in between: the kernel drops what comes while it changes it
/// (`dev_qdisc_change_tx_queue_len`).
const SEAL_QUEUE_FRAMES_MAX: u32 = 1024;

/// The data plane.
#[derive(Debug)]
pub(crate) struct Plane {
    config: Config,
    started: Instant,
    netns: weft_netns::Client,
    tap: Tap,
    seal_tap: Tap,
    /// It is that of the process before.
    pub(crate) is_seal_tap_kept: bool,
    attaching: Mutex<()>,
    kernel: Mutex<Kernel>,
    engine: Mutex<Engine>,
    /// Woken when there may be misses to hand over.
    pub(crate) misses: Notify,
}

#[derive(Debug)]
struct Kernel {
    datapath: Datapath,
    links: Links,
    routes: Routes,
    underlay: Underlay,
    ports: BTreeMap<u32, SavedPort>,
    /// Largest IP packets that fit the ways to clients, by endpoint.
    client_mtus: BTreeMap<u32, u16>,
    instance_id: String,
    state_file: StateFile,
    slow_ifindex: u32,
    seal_ifindex: u32,
    vxlan_ifindex: u32,
    bridge_ifindex: Option<u32>,
    /// The kernel's tables follow the engine's; else everything is written anew with the next
    /// change.
    is_in_step: bool,
}

/// A port with what was counted for it.
#[derive(Debug)]
pub(crate) struct PortReport {
    pub(crate) endpoint_id: u32,
    pub(crate) port: SavedPort,
    pub(crate) is_lost: bool,
    pub(crate) counters: Counters,
}

/// A port that is there now.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) host_device: String,
    pub(crate) ifindex: u32,
    pub(crate) is_new: bool,
}

/// The state of the whole.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) instance_id: String,
    pub(crate) table_revision: u64,
    pub(crate) local_host_id: u32,
    pub(crate) flow_count: usize,
    pub(crate) waiting_bytes: usize,
    pub(crate) devices: Vec<(u32, Device)>,
    pub(crate) counters: Counters,
}

/// Queues of TAPs that the process before had: what came meanwhile waits in them.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    pub(crate) slow: Option<OwnedFd>,
    pub(crate) seal: Option<OwnedFd>,
}

impl Taps {
    pub(crate) fn take(parking: &Parking) -> Self {
        Self { slow: parking.take(SLOW_TAP), seal: parking.take(SEAL_TAP) }
    }
}

impl Plane {
    /// Adopts what an earlier process left, or makes it.
    pub(crate) fn open(config: Config, taps: Taps, parking: &Parking) -> Result<Self, Failure> {
        let state_file = StateFile::in_folder(&config.state_folder);
        let mut state = state_file.load()?;
        let mut datapath = Datapath::open(&DatapathConfig {
            pin_dir: config.bpffs.clone(),
            vxlan_port: config.vxlan_port,
            limits: config.limits,
        })?;
        // First, because it admits but one shuttle.
        let (slow_device, seal_device) = (config.slow_device(), config.seal_device());
        let slow_tap = taps.slow.and_then(|queue| adopt_tap(queue, &slow_device));
        let tap = kept_or_new(slow_tap, parking, SLOW_TAP, || {
            Tap::open(&config.tun_node, &slow_device)
                .map_err(|error| tap_failure(&config, &slow_device, &error))
        })?;
        let seal_tap = taps.seal.and_then(|queue| adopt_tap(queue, &seal_device));
        let is_seal_tap_kept = seal_tap.is_some();
        let seal_tap = kept_or_new(seal_tap, parking, SEAL_TAP, || {
            Tap::open_queue(&config.tun_node, &seal_device)
                .map_err(|error| tap_failure(&config, &seal_device, &error))
        })?;
        let mut links = Links::open()?;
        let slow = find_tap(&mut links, &config.slow_device())?;
        let seal = find_tap(&mut links, &config.seal_device())?;
        let vxlan = links.make_vxlan(&config.vxlan_device(), config.vxlan_port)?;
        // Attached before it is up: nothing may come in past the programs.
        datapath.attach_device(DeviceRole::Slow, slow.ifindex)?;
        datapath.attach_device(DeviceRole::Seal, seal.ifindex)?;
        datapath.attach_device(DeviceRole::Vxlan, vxlan.ifindex)?;
        links.set_queue_length(seal.ifindex, SEAL_QUEUE_FRAMES_MAX)?;
        links.set_up_silent(slow.ifindex)?;
        links.set_up_silent(seal.ifindex)?;
        links.set_up_silent(vxlan.ifindex).map_err(|error| vxlan_failure(&config, error))?;
        let bridge_ifindex = make_bridge(&config, &mut links, vxlan.ifindex);

        if !datapath.is_adopted() || state.instance_id.is_empty() {
            state = State { instance_id: new_instance_id(&datapath), ports: state.ports };
        }
        let mut plane = Kernel {
            datapath,
            links,
            routes: Routes::open()?,
            underlay: Underlay::default(),
            ports: BTreeMap::new(),
            client_mtus: BTreeMap::new(),
            instance_id: state.instance_id,
            state_file,
            slow_ifindex: slow.ifindex,
            seal_ifindex: seal.ifindex,
            vxlan_ifindex: vxlan.ifindex,
            bridge_ifindex,
            is_in_step: false,
        };
        let mut engine = Engine::default();
        for saved in state.ports {
            plane.restore(saved, &mut engine)?;
        }
        plane.save()?;
        plane.datapath.beat();
        Ok(Self {
            netns: weft_netns::Client::new(config.netns_socket.clone()),
            started: Instant::now(),
            tap,
            seal_tap,
            is_seal_tap_kept,
            attaching: Mutex::new(()),
            kernel: Mutex::new(plane),
            engine: Mutex::new(engine),
            misses: Notify::new(),
            config,
        })
    }

    /// The TAP by which first packets come and go.
    pub(crate) const fn tap(&self) -> &Tap {
        &self.tap
    }

    /// One more descriptor of the TAP by which frames come to be sealed and go when they are opened.
    pub(crate) fn seal_tap(&self) -> io::Result<OwnedFd> {
        self.seal_tap.as_fd().try_clone_to_owned()
    }

    /// The VNIs of the networks that go sealed to a host and come from it.
    pub(crate) fn sealed_vnis(&self, host_id: u32) -> Vec<u32> {
        self.engine().tables().vnis_of_peer((host_id, Carrier::Sealed))
    }

    /// Tells the programs the largest IP packet that fits the sealed way to a host or client.
    pub(crate) fn set_sealed_mtu(&self, host_id: u32, mtu: u16) {
        let mut kernel = self.kernel();
        let Kernel { underlay, datapath, .. } = &mut *kernel;
        let told = match client_endpoint(host_id) {
            None => underlay.set_sealed_mtu(host_id, mtu, datapath),
            Some(endpoint_id) => self.set_client_mtu(&mut kernel, endpoint_id, mtu),
        };
        if let Err(failure) = told {
            log::warn(
                "the programs were not told of a path MTU",
                json!({ "host_id": host_id, "error": failure.to_string() }),
            );
        }
    }

    fn set_client_mtu(
        &self,
        kernel: &mut Kernel,
        endpoint_id: u32,
        mtu: u16,
    ) -> Result<(), Failure> {
        if kernel.client_mtus.insert(endpoint_id, mtu) == Some(mtu) {
            return Ok(());
        }
        let port = {
            let engine = self.engine();
            let tables = engine.tables();
            let port = tables.port(endpoint_id).filter(|port| is_client(port.ifindex));
            port.zip(tables.port_facts(endpoint_id)).map(|(port, (endpoint, network))| Port {
                endpoint: endpoint.clone(),
                network: network.clone(),
                ..port.clone()
            })
        };
        port.map_or(Ok(()), |port| kernel.attach_port(&port))
    }

    /// The clients that are ports here, by endpoint.
    pub(crate) fn clients(&self) -> Vec<(u32, proto::WireguardAttachment)> {
        let kernel = self.kernel();
        let ports = kernel.ports.iter();
        let client = |port: &SavedPort| match port.request.as_ref()?.attachment.as_ref()? {
            Attachment::Wireguard(client) => Some(client.clone()),
            _ => None,
        };
        ports.filter_map(|(endpoint_id, port)| Some((*endpoint_id, client(port)?))).collect()
    }

    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// The engine's time.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever gets it shows the programs that the shuttle lives: by `beat` alone they would not hear of
    /// it while others keep taking it, and one who keeps it for seconds must not pass for alive.
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        let kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        kernel.datapath.beat();
        kernel
    }

    /// Tells the programs that the shuttle lives, unless somebody has the kernel, who did so.
    pub(crate) fn beat(&self) {
        if let Ok(kernel) = self.kernel.try_lock() {
            kernel.datapath.beat();
        }
    }

    /// Whether somebody writes to the kernel right now, which may take some ten milliseconds.
    pub(crate) fn is_busy(&self) -> bool {
        self.kernel.try_lock().is_err()
    }

    /// Gives frames back to the kernel.
    pub(crate) fn send(&self, frames: Vec<SlowFrame>) {
        for frame in frames {
            if let Err(error) = self.tap.write(frame.as_bytes()) {
                log::warn(
                    "a packet could not be sent again",
                    json!({ "error": error.to_string() }),
                );
            }
        }
    }

    /// Brings a new revision of the tables into force.
    pub(crate) fn apply_tables(
        &self,
        base: u64,
        revision: u64,
        local_host_id: u32,
        changes: Vec<Change>,
    ) -> Result<(), Failure> {
        let mut kernel = self.kernel();
        let plan = self.engine().tables().plan(base, revision, local_host_id, changes)?;
        let is_first = self.engine().tables().revision() == 0;
        self.bring_into_force(&mut kernel, plan)?;
        if is_first {
            self.adopt_flows(&mut kernel)?;
            kernel.sweep(&self.config)?;
        }
        Ok(())
    }

    /// Writes a plan to the kernel, takes it over, and deletes the flows that it voids.
    fn bring_into_force(&self, kernel: &mut Kernel, mut plan: Plan) -> Result<(), Failure> {
        let writes = Writes::prepare(&self.engine(), &mut plan, kernel.is_in_step);
        if let Err(failure) = kernel.write(writes) {
            kernel.is_in_step = false;
            return Err(failure);
        }
        let mut out = Vec::new();
        let (void, has_misses) = {
            let mut engine = self.engine();
            let applied = engine.commit(plan, &mut out);
            // Those of changed endpoints went with their rows; what is left are flows to hosts with
            // another carrier.
            let void: Vec<_> = applied
                .void_flows
                .iter()
                .filter_map(|key| kernel_flow_key(&engine, *key))
                .collect();
            (void, engine.has_misses())
        };
        kernel.datapath.delete_flows(&void)?;
        self.send(out);
        if has_misses {
            self.misses.notify_one();
        }
        Ok(())
    }

    /// Takes flows over that an earlier process wrote, as far as they follow from the tables;
    /// deletes the others.
    fn adopt_flows(&self, kernel: &mut Kernel) -> Result<(), Failure> {
        let mut engine = self.engine();
        let revision = engine.tables().revision();
        let rows = kernel.datapath.flows()?;
        let mut surplus = Vec::new();
        for (key, row) in rows {
            let target = match row.via {
                weft_abi::VIA_PEER | weft_abi::VIA_DEVICE | weft_abi::VIA_CLIENT => {
                    FlowTarget::Port
                }
                weft_abi::VIA_HOST => FlowTarget::Host(row.target),
                weft_abi::VIA_SEALED => FlowTarget::Sealed(row.target),
                _ => {
                    surplus.push(key);
                    continue;
                }
            };
            let flow = Flow {
                source_endpoint_id: key.source_endpoint_id,
                target_endpoint_id: row.target_endpoint_id,
                target,
                table_revision: revision,
            };
            let is_same = flow_spec(&engine, &flow).is_some_and(|spec| match spec.target {
                weft_kernel::FlowTarget::To(
                    Location::Peer { ifindex } | Location::Device { ifindex },
                ) => ifindex == row.target && spec.target_mac == key.target_mac,
                weft_kernel::FlowTarget::To(Location::Client { endpoint_id }) => {
                    client_number(endpoint_id) == row.target && spec.target_mac == key.target_mac
                }
                _ => spec.target_mac == key.target_mac,
            });
            if is_same && engine.tables().check_flow(&flow).is_ok() {
                engine.put_flows(&[flow], &mut Vec::new());
            } else {
                surplus.push(key);
            }
        }
        drop(engine);
        kernel.delete_flows(&surplus)
    }

    /// Writes flows and lets the packets go that waited for them; says how many were written. Those
    /// that do not follow from the tables in force are left out and asked for again.
    pub(crate) fn put_flows(&self, flows: Vec<Flow>) -> Result<usize, Failure> {
        if flows.is_empty() {
            return Ok(0);
        }
        let mut kernel = self.kernel();
        let mut engine = self.engine();
        let flows = engine.check_flows(flows);
        let specs: Vec<FlowSpec> =
            flows.iter().filter_map(|flow| flow_spec(&engine, flow)).collect();
        drop(engine);
        kernel.datapath.put_flows(&specs)?;
        let mut out = Vec::new();
        let has_misses = {
            let mut engine = self.engine();
            engine.put_flows(&flows, &mut out);
            engine.has_misses()
        };
        drop(kernel);
        self.send(out);
        if has_misses {
            self.misses.notify_one();
        }
        Ok(flows.len())
    }

    /// Removes flows, or all; says how many there were.
    pub(crate) fn delete_flows(&self, keys: Option<&[FlowKey]>) -> Result<usize, Failure> {
        let mut kernel = self.kernel();
        let mut engine = self.engine();
        match keys {
            None => {
                let keys: Vec<FlowKey> = engine.flows().iter().map(Flow::key).collect();
                kernel.datapath.delete_all_flows()?;
                Ok(engine.delete_flows(&keys))
            }
            Some(keys) => {
                let kernel_keys: Vec<_> =
                    keys.iter().filter_map(|key| kernel_flow_key(&engine, *key)).collect();
                kernel.datapath.delete_flows(&kernel_keys)?;
                Ok(engine.delete_flows(keys))
            }
        }
    }

    /// The flows in force, with the time since their last packet.
    pub(crate) fn flows(&self) -> Result<Vec<(Flow, Duration)>, Failure> {
        let kernel = self.kernel();
        let engine = self.engine();
        let now_s = monotonic_s();
        let rows = kernel.datapath.flows()?;
        Ok(rows
            .into_iter()
            .filter_map(|(key, row)| {
                let flow = engine.flows().get((key.source_endpoint_id, row.target_endpoint_id))?;
                Some((*flow, Duration::from_secs(u64::from(now_s.saturating_sub(row.last_used_s)))))
            })
            .collect())
    }

    /// Forgets flows without packets.
    pub(crate) fn expire_flows(&self) -> Result<usize, Failure> {
        let idle_max = Duration::from_secs(u64::from(self.config.flow_idle_s));
        let flows = self.flows()?;
        let idle: Vec<FlowKey> = flows
            .iter()
            .filter(|(_, idle)| *idle >= idle_max)
            .map(|(flow, _)| flow.key())
            .collect();
        self.delete_flows(Some(&idle))
    }

    /// The next misses to hand over.
    pub(crate) fn poll_misses(&self) -> Vec<Miss> {
        self.engine().poll_misses()
    }

    /// A forwarder is there that knows nothing of earlier misses.
    pub(crate) fn handle_new_forwarder(&self) {
        self.engine().handle_new_forwarder();
        self.misses.notify_one();
    }

    /// The forwarder has no answer.
    pub(crate) fn drop_unresolved(&self, keys: &[FlowKey]) {
        let mut out = Vec::new();
        self.engine().handle_unresolved(keys, &mut out);
        self.send(out);
    }

    /// Makes a namespace, a TAP or a client a port.
    pub(crate) fn attach(&self, request: proto::AttachPortRequest) -> Result<Attached, Failure> {
        let _attaching = self.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = Wanted::parse(&request)?;
        let endpoint_id = wanted.endpoint.endpoint_id;
        if let Some(attached) = self.find_attached(&wanted, &request)? {
            return Ok(attached);
        }
        let (saved, link) = match &request.attachment {
            Some(Attachment::Netns(netns)) => {
                let (saved, link) = self.make_netns_port(&wanted, netns)?;
                (saved, Some(link))
            }
            Some(Attachment::Tap(tap)) => {
                let (saved, link) = self.take_tap(&tap.device)?;
                (saved, Some(link))
            }
            Some(Attachment::Wireguard(_)) => (client_port(endpoint_id), None),
            None => {
                return Err(Failure::invalid(
                    "it is not said what to attach: netns, tap or wireguard",
                ));
            }
        };
        let is_made = matches!(request.attachment, Some(Attachment::Netns(_)));
        let saved = SavedPort { request: Some(request), ..saved };
        let mut kernel = self.kernel();
        let port = wanted.into_port(&saved);
        let attached = self.begin_port(&mut kernel, &port, link.as_ref()).and_then(|()| {
            kernel.ports.insert(endpoint_id, saved.clone());
            kernel.save()
        });
        if let Err(failure) = attached {
            // The first error is the one to tell.
            let _ = self.end_port(&mut kernel, endpoint_id, saved.ifindex);
            if is_made {
                let _ = kernel.links.delete(&saved.host_device);
            }
            return Err(failure);
        }
        Ok(Attached { host_device: saved.host_device, ifindex: saved.ifindex, is_new: true })
    }

    /// The port, when it is there already as it is wanted. One whose device is gone makes room.
    fn find_attached(
        &self,
        wanted: &Wanted,
        request: &proto::AttachPortRequest,
    ) -> Result<Option<Attached>, Failure> {
        let endpoint_id = wanted.endpoint.endpoint_id;
        let mut kernel = self.kernel();
        let Some(saved) = kernel.ports.get(&endpoint_id).cloned() else { return Ok(None) };
        if !kernel.is_there(&saved)? {
            self.remove_port(&mut kernel, endpoint_id, &saved)?;
            return Ok(None);
        }
        let is_same =
            saved.request.as_ref().is_some_and(|before| before.attachment == request.attachment);
        if !is_same {
            let by =
                if is_client(saved.ifindex) { "a WireGuard client" } else { &saved.host_device };
            return Err(Failure::attached_differently(endpoint_id, by));
        }
        Ok(Some(Attached { host_device: saved.host_device, ifindex: saved.ifindex, is_new: false }))
    }

    fn make_netns_port(
        &self,
        wanted: &Wanted,
        netns: &proto::NetnsAttachment,
    ) -> Result<(SavedPort, Link), Failure> {
        let inner_name = if netns.device.is_empty() { INNER_DEVICE_DEFAULT } else { &netns.device };
        if inner_name.len() > DEVICE_NAME_BYTES_MAX
            || inner_name.contains(['/', ' '])
            || inner_name.starts_with('.')
        {
            return Err(Failure::invalid(format!("{inner_name:?} is no name of a device")));
        }
        let (namespace, socket) = self.netns.open_namespace(Path::new(&netns.path))?;
        let mut inner = Links::of_socket(socket)?;
        if inner.find(inner_name)?.is_some() {
            return Err(Failure::device_taken(inner_name, &netns.path));
        }
        let name = self.config.port_device(wanted.endpoint.endpoint_id);
        let mut links = Links::open()?;
        // Nobody has an endpoint's device without a port: it is left over from an attach that was
        // cut off.
        links.delete(&name)?;
        let device = InnerDevice {
            name: inner_name,
            netns: namespace.as_fd(),
            mac: wanted.endpoint.mac.0,
            mtu_bytes: wanted.network.mtu_bytes,
            super_packet_payload_bytes: wanted.super_packet_payload_bytes,
            addresses: &wanted.addresses,
            keep_routes: netns.keep_routes,
        };
        let link = links.make_veth(&name, &device, &mut inner)?;
        let saved =
            SavedPort { request: None, host_device: name, ifindex: link.ifindex, is_peer: true };
        Ok((saved, link))
    }

    fn take_tap(&self, device: &str) -> Result<(SavedPort, Link), Failure> {
        let mut kernel = self.kernel();
        if let Some((holder, _)) = kernel.ports.iter().find(|(_, port)| port.host_device == device)
        {
            return Err(Failure::already_attached(device, *holder));
        }
        let is_own =
            [self.config.slow_device(), self.config.seal_device()].iter().any(|own| own == device);
        let link = kernel.links.find(device)?.filter(|link| link.is_tap && !is_own);
        let link = link.ok_or_else(|| Failure::device_missing(device))?;
        let saved = SavedPort {
            request: None,
            host_device: device.to_owned(),
            ifindex: link.ifindex,
            is_peer: false,
        };
        Ok((saved, link))
    }

    /// Programs first, then up, then the tables: no frame passes unguarded, and none comes before
    /// it can be delivered.
    fn begin_port(
        &self,
        kernel: &mut Kernel,
        port: &Port,
        link: Option<&Link>,
    ) -> Result<(), Failure> {
        let plan =
            self.engine().tables().plan_port(port.endpoint.endpoint_id, Some(port.clone()))?;
        kernel.attach_port(port)?;
        if let Some(link) = link {
            if let Some(bridge) = kernel.bridge_ifindex {
                kernel.links.set_master(link.ifindex, bridge)?;
            }
            kernel.links.set_up_silent(link.ifindex)?;
        }
        self.bring_into_force(kernel, plan)
    }

    fn end_port(&self, kernel: &mut Kernel, endpoint_id: u32, ifindex: u32) -> Result<(), Failure> {
        let plan = self.engine().tables().plan_port(endpoint_id, None)?;
        self.bring_into_force(kernel, plan)?;
        kernel.datapath.detach_port(ifindex)?;
        Ok(())
    }

    fn remove_port(
        &self,
        kernel: &mut Kernel,
        endpoint_id: u32,
        saved: &SavedPort,
    ) -> Result<(), Failure> {
        self.end_port(kernel, endpoint_id, saved.ifindex)?;
        if saved.is_peer {
            kernel.links.delete(&saved.host_device)?;
        } else if let Some(link) = kernel.find_device(saved)? {
            // A TAP is its owner's again.
            kernel.links.set_master(link.ifindex, 0)?;
        }
        kernel.datapath.forget_counters(endpoint_id);
        kernel.client_mtus.remove(&endpoint_id);
        kernel.ports.remove(&endpoint_id);
        kernel.save()
    }

    /// Removes a port; false when there was none.
    pub(crate) fn detach(&self, endpoint_id: u32) -> Result<bool, Failure> {
        let _attaching = self.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kernel = self.kernel();
        let Some(saved) = kernel.ports.get(&endpoint_id).cloned() else { return Ok(false) };
        self.remove_port(&mut kernel, endpoint_id, &saved)?;
        Ok(true)
    }

    /// All ports with their counters.
    pub(crate) fn ports(&self) -> Result<Vec<PortReport>, Failure> {
        let mut kernel = self.kernel();
        let ports = kernel.ports.clone();
        ports
            .into_iter()
            .map(|(endpoint_id, port)| {
                let is_lost = !kernel.is_there(&port)?;
                let counters = kernel.datapath.counters(endpoint_id)?.unwrap_or_default();
                Ok(PortReport { endpoint_id, port, is_lost, counters })
            })
            .collect()
    }

    /// Where an endpoint's namespace is.
    pub(crate) fn netns_path(&self, endpoint_id: u32) -> Result<String, Failure> {
        let kernel = self.kernel();
        let saved =
            kernel.ports.get(&endpoint_id).ok_or_else(|| Failure::port_not_found(endpoint_id))?;
        match saved.request.as_ref().and_then(|request| request.attachment.as_ref()) {
            Some(Attachment::Netns(netns)) => Ok(netns.path.clone()),
            _ => Err(Failure::invalid(format!(
                "endpoint {endpoint_id} is no namespace: nothing can be sent from inside it"
            ))),
        }
    }

    /// A socket for echo requests from inside an endpoint's namespace.
    pub(crate) fn open_echo(
        &self,
        path: &str,
        target: IpAddr,
    ) -> Result<std::os::fd::OwnedFd, Failure> {
        let family = if target.is_ipv4() { weft_netns::Family::V4 } else { weft_netns::Family::V6 };
        Ok(self.netns.open_echo(Path::new(path), family)?)
    }

    /// Follows what changed at the host: the way to other hosts, and devices of ports.
    pub(crate) fn follow(&self, changes: &[weft_io::Change]) -> Result<(), Failure> {
        let mut kernel = self.kernel();
        let underlay = &kernel.underlay;
        let is_of_underlay = |change: &weft_io::Change| match *change {
            weft_io::Change::Anything => true,
            weft_io::Change::Link { ifindex } => underlay.devices().contains_key(&ifindex),
            weft_io::Change::Neighbour { ifindex, address } => {
                underlay.is_next_hop(ifindex, address)
            }
        };
        if changes.iter().any(is_of_underlay) {
            let peers: Vec<_> = self.engine().tables().peers().cloned().collect();
            kernel.refresh_underlay(peers.iter())?;
        }
        let ports: Vec<_> = kernel.ports.iter().map(|(id, port)| (*id, port.clone())).collect();
        for (endpoint_id, port) in ports {
            let is_changed = changes.iter().any(|change| match change {
                weft_io::Change::Anything => true,
                weft_io::Change::Link { ifindex } => *ifindex == port.ifindex,
                weft_io::Change::Neighbour { .. } => false,
            });
            if is_changed {
                self.end_if_lost(&mut kernel, endpoint_id, &port)?;
            }
        }
        Ok(())
    }

    /// A port whose device went away leaves the tables; what was counted for it stays until it is
    /// detached.
    fn end_if_lost(
        &self,
        kernel: &mut Kernel,
        endpoint_id: u32,
        port: &SavedPort,
    ) -> Result<(), Failure> {
        let is_in_tables = self.engine().tables().port(endpoint_id).is_some();
        if is_in_tables && !kernel.is_there(port)? {
            self.end_port(kernel, endpoint_id, port.ifindex)?;
            log::warn(
                "the device of a port is gone",
                json!({ "endpoint_id": endpoint_id, "device": port.host_device }),
            );
        }
        Ok(())
    }

    pub(crate) fn report(&self) -> Result<Report, Failure> {
        let kernel = self.kernel();
        let engine = self.engine();
        Ok(Report {
            instance_id: kernel.instance_id.clone(),
            table_revision: engine.tables().revision(),
            local_host_id: engine.tables().local_host_id(),
            flow_count: engine.flows().len(),
            waiting_bytes: engine.waiting_bytes(),
            devices: kernel
                .underlay
                .devices()
                .iter()
                .map(|(ifindex, device)| (*ifindex, device.clone()))
                .collect(),
            counters: kernel.datapath.host_counters()?,
        })
    }
}

impl Kernel {
    /// Makes the kernel follow a plan. Hosts come before the tables that name them, and go after.
    fn write(&mut self, writes: Writes) -> Result<(), Failure> {
        // With ports alone, tables of an earlier process may be in force, and stay so until the
        // forwarder has sent its own.
        let Writes { changes, peers, ports, revision: 1.. } = writes else { return Ok(()) };
        let mut removed_peers = changes.removed_peers.clone();
        if !self.is_in_step {
            let kept: BTreeSet<PeerKey> = changes.put_peers.iter().map(Peer::key).collect();
            removed_peers.extend(self.datapath.peers()?.difference(&kept));
        }
        if !changes.put_peers.is_empty() {
            self.refresh_underlay(peers.iter())?;
        }
        let delta = delta(&changes)?;
        if !self.is_in_step {
            self.datapath.replace_world(&delta)?;
        } else if !delta.is_empty() {
            self.datapath.apply_world(&delta)?;
        }
        for peer in removed_peers {
            self.underlay.remove(peer, &mut self.datapath)?;
        }
        for port in &ports {
            self.attach_port(port)?;
        }
        self.is_in_step = true;
        Ok(())
    }

    fn refresh_underlay<'a>(
        &mut self,
        peers: impl Iterator<Item = &'a Peer>,
    ) -> Result<(), Failure> {
        self.underlay.refresh(peers, &mut self.links, &mut self.routes, &mut self.datapath)
    }

    fn attach_port(&mut self, port: &Port) -> Result<(), Failure> {
        let endpoint = kernel_endpoint(&Row {
            endpoint: port.endpoint.clone(),
            vni: port.network.vni,
            place: Place::Port { ifindex: port.ifindex, is_peer: port.is_peer },
            carriers: Carriers::default(),
        });
        let mtu = u16::try_from(port.network.mtu_bytes)
            .map_err(|_| Failure::invalid("the MTU is too large"))?;
        let tunnel_mtu = self.client_mtus.get(&port.endpoint.endpoint_id);
        let mtu = tunnel_mtu.map_or(mtu, |tunnel_mtu| mtu.min(*tunnel_mtu));
        Ok(self.datapath.attach_port(&PortSpec::new(&endpoint, mtu))?)
    }

    /// Takes over a port of an earlier process. What cannot be, because the device is gone, stays
    /// listed as lost.
    fn restore(&mut self, saved: SavedPort, engine: &mut Engine) -> Result<(), Failure> {
        let Some(request) = &saved.request else { return Ok(()) };
        let Ok(wanted) = Wanted::parse(request) else { return Ok(()) };
        let endpoint_id = wanted.endpoint.endpoint_id;
        if self.is_there(&saved)? {
            let port = wanted.into_port(&saved);
            let is_attached = self
                .datapath
                .ports()?
                .get(&saved.ifindex)
                .is_some_and(|row| row.endpoint_id == endpoint_id);
            if !is_attached {
                self.attach_port(&port)?;
            }
            let plan = engine.tables().plan_port(endpoint_id, Some(port))?;
            engine.commit(plan, &mut Vec::new());
        }
        self.ports.insert(endpoint_id, saved);
        Ok(())
    }

    /// Whether a port has its device, or needs none.
    fn is_there(&mut self, saved: &SavedPort) -> Result<bool, Failure> {
        Ok(is_client(saved.ifindex) || self.find_device(saved)?.is_some())
    }

    /// A port's device, while it is the one with which the port was made.
    fn find_device(&mut self, saved: &SavedPort) -> Result<Option<Link>, Failure> {
        if is_client(saved.ifindex) {
            return Ok(None);
        }
        let link = self.links.get(saved.ifindex)?;
        Ok(link.filter(|link| link.name == saved.host_device))
    }

    fn delete_flows(&mut self, keys: &[weft_abi::FlowKey]) -> Result<(), Failure> {
        self.datapath.delete_flows(keys)?;
        Ok(())
    }

    fn save(&self) -> Result<(), Failure> {
        let state = State {
            instance_id: self.instance_id.clone(),
            ports: self.ports.values().cloned().collect(),
        };
        Ok(self.state_file.save(&state)?)
    }

    /// Removes what earlier processes left and nobody wants, once the tables are complete.
    fn sweep(&mut self, config: &Config) -> Result<(), Failure> {
        let ports: BTreeSet<u32> = self.ports.values().map(|port| port.ifindex).collect();
        let underlay = self.underlay.devices().iter().filter(|(_, device)| device.is_by_programs());
        let mut devices: BTreeSet<_> =
            underlay.map(|(ifindex, _)| (DeviceRole::Underlay, *ifindex)).collect();
        devices.insert((DeviceRole::Slow, self.slow_ifindex));
        devices.insert((DeviceRole::Seal, self.seal_ifindex));
        devices.insert((DeviceRole::Vxlan, self.vxlan_ifindex));
        self.datapath.retain(&ports, &devices)?;
        self.datapath.remove_other_versions()?;
        for link in self.links.list()? {
            if config.is_port_device(&link.name)
                && link.kind == "veth"
                && !ports.contains(&link.ifindex)
            {
                self.links.delete(&link.name)?;
            }
        }
        Ok(())
    }
}

/// What the kernel has to be told, worked out while the engine is at hand: the writing takes longer
/// than the slow thread may wait for it.
struct Writes {
    revision: u64,
    changes: KernelChanges,
    /// All other hosts, where some changed.
    peers: Vec<Peer>,
    /// Ports to write again.
    ports: Vec<Port>,
}

impl Writes {
    fn prepare(engine: &Engine, plan: &mut Plan, is_in_step: bool) -> Self {
        let tables = engine.tables();
        let changes =
            if is_in_step { mem::take(&mut plan.kernel) } else { tables.everything_with(plan) };
        let peers = if changes.put_peers.is_empty() {
            Vec::new()
        } else {
            tables.peers_with(plan).cloned().collect()
        };
        let facts = changes.ports.iter().filter_map(|id| tables.port_facts_with(plan, *id));
        let ports = facts.map(|(port, endpoint, network)| Port {
            endpoint: endpoint.clone(),
            network: network.clone(),
            ..port.clone()
        });
        Self { revision: plan.revision(), ports: ports.collect(), peers, changes }
    }
}

/// Removes every device, program and table of a shuttle that does not run.
pub(crate) fn clean_up(config: &Config) -> Result<(), Failure> {
    let mut links = Links::open()?;
    for link in links.list()? {
        let is_port = config.is_port_device(&link.name) && link.kind == "veth";
        let own = [
            config.slow_device(),
            config.seal_device(),
            config.vxlan_device(),
            config.bridge_device(),
        ];
        let is_own = own.contains(&link.name);
        if is_port || is_own {
            links.delete(&link.name)?;
        }
    }
    remove_pins(&config.bpffs)?;
    StateFile::in_folder(&config.state_folder).remove()?;
    Ok(())
}

/// A pin is what keeps a program, map or link. They lie in folders, one for each version of the
/// layouts; the files beside those are the bpffs's own.
fn remove_pins(bpffs: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(bpffs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// What is wanted of a port, checked.
pub(crate) struct Wanted {
    endpoint: weft_engine::Endpoint,
    network: weft_engine::Network,
    addresses: Vec<(IpAddr, u8)>,
    super_packet_payload_bytes: Option<u32>,
}

impl Wanted {
    pub(crate) fn parse(request: &proto::AttachPortRequest) -> Result<Self, Failure> {
        let endpoint =
            request.endpoint.as_ref().ok_or_else(|| Failure::invalid("the endpoint is missing"))?;
        let network =
            request.network.as_ref().ok_or_else(|| Failure::invalid("the network is missing"))?;
        let (endpoint, network) = (convert::endpoint(endpoint)?, convert::network(network)?);
        if endpoint.network_id != network.network_id {
            return Err(Failure::invalid("the endpoint is of another network than the one given"));
        }
        if endpoint.addresses.len() != request.prefix_lengths_bits.len() {
            return Err(Failure::invalid("each address needs the length of its prefix"));
        }
        let addresses =
            endpoint.addresses.iter().zip(&request.prefix_lengths_bits).map(|(address, bits)| {
                let bits_max = if address.is_ipv4() { 32 } else { 128 };
                let bits = u8::try_from(*bits).ok().filter(|bits| *bits <= bits_max);
                Ok((
                    *address,
                    bits.ok_or_else(|| Failure::invalid(format!("{address} has no such prefix")))?,
                ))
            });
        let addresses = addresses.collect::<Result<_, Failure>>()?;
        let mtu_bytes = usize::try_from(network.mtu_bytes).unwrap_or(usize::MAX);
        let super_packet_payload_bytes = request
            .sealed
            .then(|| u32::try_from(weft_seal::super_packet_payload_bytes(mtu_bytes)).ok())
            .flatten();
        Ok(Self { endpoint, network, addresses, super_packet_payload_bytes })
    }

    fn into_port(self, saved: &SavedPort) -> Port {
        Port {
            endpoint: self.endpoint,
            network: self.network,
            ifindex: saved.ifindex,
            is_peer: saved.is_peer,
        }
    }
}

fn client_port(endpoint_id: u32) -> SavedPort {
    SavedPort {
        request: None,
        host_device: String::new(),
        ifindex: client_number(endpoint_id),
        is_peer: false,
    }
}

const fn is_client(ifindex: u32) -> bool {
    client_endpoint(ifindex).is_some()
}

/// `None` where the device is gone, or is another one.
fn adopt_tap(queue: OwnedFd, device: &str) -> Option<Tap> {
    let tap = Tap::adopt(queue, device);
    if let Err(error) = &tap {
        let facts = json!({ "tap": device, "error": error.to_string() });
        log::warn("a TAP was not taken over", facts);
    }
    tap.ok()
}

fn kept_or_new(
    kept: Option<Tap>,
    parking: &Parking,
    name: &str,
    open: impl FnOnce() -> Result<Tap, Failure>,
) -> Result<Tap, Failure> {
    if let Some(tap) = kept {
        return Ok(tap);
    }
    let tap = open()?;
    parking.put(name, tap.as_fd());
    Ok(tap)
}

fn find_tap(links: &mut Links, name: &str) -> Result<Link, Failure> {
    links.find(name)?.ok_or_else(|| Failure::internal(format!("TAP {name} went away")))
}

fn tap_failure(config: &Config, name: &str, error: &io::Error) -> Failure {
    let node = config.tun_node.display();
    let remedy = match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "another shuttle runs: stop it, or give this one its own --device-prefix"
        }
        Some(libc::EACCES) => "let the shuttle's user open it",
        Some(libc::ENOENT | libc::ENODEV) => "modprobe tun",
        _ => "the shuttle needs CAP_NET_ADMIN",
    };
    Failure::internal(format!("cannot make TAP {name} with {node}: {error}; {remedy}"))
}

/// The device takes its UDP port when it is set up.
fn vxlan_failure(config: &Config, error: NetlinkError) -> Failure {
    if error.errno() == libc::EADDRINUSE {
        Failure::port_in_use(config.vxlan_port)
    } else {
        error.into()
    }
}

/// The VXLAN device asks its bridge for headroom, and the bridge asks its other ports: so packets
/// from endpoints come with room for the outer headers, which saves a copy. The bridge is down and
/// forwards nothing. Without bridges in the kernel it just is not as fast.
fn make_bridge(config: &Config, links: &mut Links, vxlan_ifindex: u32) -> Option<u32> {
    let made = links.make_bridge(&config.bridge_device()).and_then(|bridge| {
        links.set_master(vxlan_ifindex, bridge.ifindex)?;
        Ok(bridge.ifindex)
    });
    made.inspect_err(|error| {
        log::warn("packets get no headroom", json!({ "error": error.to_string() }));
    })
    .ok()
}

fn new_instance_id(datapath: &Datapath) -> String {
    format!("{:x}-{:x}", log::now_us(), datapath.instance())
}

fn kernel_flow_key(
    engine: &Engine,
    (source_endpoint_id, target): FlowKey,
) -> Option<weft_abi::FlowKey> {
    let target_mac = engine.tables().row(target)?.endpoint.mac.0;
    Some(weft_abi::FlowKey { source_endpoint_id, target_mac, pad: 0 })
}

fn flow_spec(engine: &Engine, flow: &Flow) -> Option<FlowSpec> {
    let row = engine.tables().row(flow.target_endpoint_id)?;
    Some(FlowSpec {
        source_endpoint_id: flow.source_endpoint_id,
        target_mac: row.endpoint.mac.0,
        target_endpoint_id: flow.target_endpoint_id,
        target: match flow.target {
            FlowTarget::Drop(reason) => weft_kernel::FlowTarget::Drop(reason),
            FlowTarget::Sealed(host_id) => weft_kernel::FlowTarget::Sealed { host_id },
            FlowTarget::Port | FlowTarget::Host(_) => {
                weft_kernel::FlowTarget::To(location(row.place))
            }
        },
    })
}

const fn location(place: Place) -> Location {
    match place {
        Place::Port { ifindex, .. } if is_client(ifindex) => {
            Location::Client { endpoint_id: ifindex & !CLIENT_BIT }
        }
        Place::Port { ifindex, is_peer: true } => Location::Peer { ifindex },
        Place::Port { ifindex, is_peer: false } => Location::Device { ifindex },
        Place::Host(host_id) => Location::Host { host_id },
    }
}

fn kernel_endpoint(row: &Row) -> weft_kernel::Endpoint {
    let prefixes = row.endpoint.allowed_prefixes.iter();
    weft_kernel::Endpoint {
        endpoint_id: row.endpoint.endpoint_id,
        vni: row.vni,
        mac: row.endpoint.mac.0,
        addresses: row.endpoint.addresses.clone(),
        allowed_prefixes: prefixes
            .map(|prefix| weft_kernel::Prefix {
                address: prefix.address,
                length_bits: prefix.length_bits,
            })
            .collect(),
        location: location(row.place),
        carriers: row.carriers,
    }
}

fn delta(changes: &KernelChanges) -> Result<Delta, Failure> {
    let mut delta = Delta::default();
    for row in &changes.removed {
        delta.remove_endpoint(&kernel_endpoint(row));
    }
    for row in &changes.put {
        delta.put_endpoint(&kernel_endpoint(row));
    }
    for (vni, members) in &changes.members {
        match members {
            Some(Members { ifindexes, host_ids, sealed_host_ids }) => {
                delta.put_network(*vni, ifindexes, host_ids, sealed_host_ids)?;
            }
            None => delta.remove_network(*vni),
        }
    }
    Ok(delta)
}

/// `CLOCK_MONOTONIC` in seconds, the clock of the programs.
fn monotonic_s() -> u32 {
    // SAFETY: all-zero is a valid timespec; the call fills it and cannot fail for this clock.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
        time
    };
    u32::try_from(time.tv_sec).unwrap_or(u32::MAX)
}
