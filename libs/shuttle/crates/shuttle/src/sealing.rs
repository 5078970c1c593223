//! The sealed carrier of this host: the engine that decides about sessions, the packet threads that
//! use them, and a thread that carries word between the two.
//!
//! Peers come with the tables and wait until there is a key; from then on they are the engine's. One
//! lock guards all of it. Packet threads never take it.

mod clients;
mod clock;
mod control;
mod counters;
#[cfg(test)]
mod crashes;
pub(crate) mod fuzz;
mod keys;
mod memory;
mod parse;
mod recall;
mod recent;
mod report;
mod resume;
mod revocations;
mod running;
mod service;
mod warm;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use weft_abi::client_endpoint;
use weft_lane::{Framing, Tap, UdpSocket};
use weft_tunnel::PeerId;

use crate::failure::Failure;
use crate::log;
use crate::parking::{Parking, SEAL_MEMORY, SEAL_SOCKET};
use crate::plane::Plane;

pub(crate) use parse::{SealedPeer, Settings};
pub(crate) use service::SealingService;

use memory::Memory;
use revocations::Passed;
use running::{Means, Running};

/// The sealed carrier.
pub(crate) struct Sealing {
    /// Not there yet while the start of the process is under way.
    plane: OnceLock<Arc<Plane>>,
    parking: Arc<Parking>,
    /// Where a file says which stamps and hand-overs are used up.
    state_folder: PathBuf,
    core: Mutex<Core>,
    /// Peers have passed something on.
    news: Notify,
}

#[derive(Default)]
struct Core {
    /// What the tables say of hosts, and ports of clients, whether or not there is a key yet.
    peers: BTreeMap<u32, Member>,
    running: Option<Running>,
}

/// A peer as the tables, or the ports, have it.
#[derive(Clone, Debug)]
struct Member {
    peer: SealedPeer,
    vnis: Vec<u32>,
}

impl Member {
    /// Whether it was known by something that is void now, or was part of another network.
    fn had_more_than(&self, now: &Self) -> bool {
        let (before, after) = (&self.peer.config, &now.peer.config);
        before.public_key != after.public_key
            || before.previous_public_key != after.previous_public_key
            || before.preshared_key != after.preshared_key
            || before.kind != after.kind
            || self.vnis.iter().any(|vni| !now.vnis.contains(vni))
    }
}

/// What an application of tables says of sealed peers.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Everything that is not among `put` goes.
    pub(crate) is_whole: bool,
    pub(crate) put: BTreeMap<u32, SealedPeer>,
    pub(crate) deleted: BTreeSet<u32>,
}

impl Sealing {
    /// Nothing is sealed before [`Self::configure`].
    pub(crate) fn new(state_folder: PathBuf, parking: Arc<Parking>) -> Arc<Self> {
        let (plane, core, news) = (OnceLock::new(), Mutex::default(), Notify::new());
        Arc::new(Self { plane, parking, state_folder, core, news })
    }

    /// The data plane is there. What goes on with a TAP that is gone waits for the forwarder instead.
    pub(crate) fn join(&self, plane: Arc<Plane>) {
        if !plane.is_seal_tap_kept
            && let Some(running) = self.core().running.take()
        {
            running.stop();
            self.parking.remove(SEAL_SOCKET);
            self.parking.remove(SEAL_MEMORY);
        }
        let clients = plane.clients();
        // Called once.
        let _ = self.plane.set(plane);
        self.restore_clients(&clients);
    }

    fn plane(&self) -> Result<&Plane, Failure> {
        let plane = self.plane.get().map(Arc::as_ref);
        plane.ok_or_else(|| Failure::internal("the data plane is not there yet"))
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the socket with this key, or goes over to it. Repeating it is harmless.
    fn configure(self: &Arc<Self>, settings: Settings) -> Result<report::Configured, Failure> {
        let mut core = self.core();
        let Core { peers, running } = &mut *core;
        match running {
            Some(running) if running.port() == settings.port => {
                running.reconfigure(settings, peers)?;
            }
            _ => {
                let before = running.take();
                if let Some(before) = before {
                    before.stop();
                }
                *running = Some(self.start(settings, peers)?);
            }
        }
        if let Some(running) = running {
            // Which key is in force must be known at once.
            running.save();
        }
        let configured = running.as_ref().map(report::configured);
        configured.ok_or_else(|| Failure::internal("the sealed carrier does not run"))
    }

    fn start(
        self: &Arc<Self>,
        settings: Settings,
        peers: &BTreeMap<u32, Member>,
    ) -> Result<Running, Failure> {
        let socket = self.socket(settings.port)?;
        let tap = Tap::adopt(self.plane()?.seal_tap()?, Framing::Meta)?;
        let memory = self.memory()?;
        let means = Means { tap, socket, memory, findings: None };
        let (mut running, events) = Running::prepare(settings, means, &self.state_folder)?;
        for (host_id, member) in peers {
            running.put(*host_id, member);
        }
        running.begin()?;
        control::spawn(Arc::downgrade(self), events)?;
        Ok(running)
    }

    /// Tells the tunnel the time that the control plane signed.
    fn trust_time(&self, unix: Duration) {
        if let Some(running) = &mut self.core().running {
            running.trust_time(unix);
        }
    }

    /// Has peers told of void keys. Where nothing is sealed nobody can be told.
    fn tell_revocations(&self, statements: Vec<Arc<[u8]>>) {
        if let Some(running) = &mut self.core().running {
            running.take_revocations(statements);
        }
    }

    /// What peers passed on after the first `count`, and how many there have been.
    fn passed_since(&self, count: u64) -> (Vec<Passed>, u64) {
        match &mut self.core().running {
            Some(running) => running.revocations.passed_since(count),
            None => (Vec::new(), 0),
        }
    }

    /// That of the process before where it is of this port.
    fn socket(&self, port: u16) -> Result<UdpSocket, Failure> {
        match self.parking.take(SEAL_SOCKET).map(UdpSocket::adopt) {
            Some(Ok(socket)) if socket.port()? == port => return Ok(socket),
            Some(Err(error)) => {
                let error = error.to_string();
                log::warn("a socket was not taken over", json!({ "error": error }));
                self.parking.remove(SEAL_SOCKET);
            }
            _ => self.parking.remove(SEAL_SOCKET),
        }
        let socket = UdpSocket::open(port).map_err(|error| match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Failure::sealing_port_in_use(port),
            _ => Failure::from(error),
        })?;
        self.parking.put(SEAL_SOCKET, socket.as_fd());
        Ok(socket)
    }

    /// New memory for the next process, if there will be one that has it.
    fn memory(&self) -> Result<Option<Memory>, Failure> {
        if !self.parking.is_kept() {
            return Ok(None);
        }
        let memory = Memory::create()?;
        self.parking.put(SEAL_MEMORY, memory.as_fd());
        Ok(Some(memory))
    }

    /// Ends sessions with peers that the tables are about to lose, before they do.
    pub(crate) fn remove(&self, changes: &Changes) {
        let mut core = self.core();
        let gone: Vec<u32> = core
            .peers
            .keys()
            .filter(|number| client_endpoint(**number).is_none())
            .filter(|host| changes.is_whole || changes.deleted.contains(host))
            .filter(|host| !changes.put.contains_key(host))
            .copied()
            .collect();
        for host_id in &gone {
            core.remove(*host_id);
        }
        if let Some(running) = core.running.as_mut().filter(|_| !gone.is_empty()) {
            // The next process must not know them any more when this is answered.
            running.save();
        }
    }

    /// Takes peers that the tables have now.
    pub(crate) fn put(&self, changes: Changes) {
        let mut core = self.core();
        let mut is_any_restricted = core.expel_impostors(&changes.put);
        let Core { peers, running } = &mut *core;
        for (host_id, peer) in changes.put {
            let vnis = self.plane.get().map_or_else(Vec::new, |plane| plane.sealed_vnis(host_id));
            let member = Member { peer, vnis };
            if let Some(running) = running {
                running.put(host_id, &member);
            }
            let before = peers.get(&host_id);
            is_any_restricted |= before.is_some_and(|before| before.had_more_than(&member));
            peers.insert(host_id, member);
        }
        if let Some(running) = running {
            running.revive();
            if is_any_restricted {
                // The next process must not take what is not to be taken any more when this is answered.
                running.save();
            }
        }
        self.tell_kernel(core);
    }

    /// Tells the programs what fits the ways to hosts and clients.
    fn tell_kernel(&self, mut core: MutexGuard<'_, Core>) {
        let (Some(plane), Some(running)) = (self.plane.get(), &mut core.running) else { return };
        let mtus = running.take_mtus();
        drop(core);
        for (PeerId(host_id), mtu) in mtus {
            plane.set_sealed_mtu(host_id, mtu);
        }
    }
}

impl Core {
    /// Ends sessions with a peer and forgets it.
    fn remove(&mut self, number: u32) {
        self.peers.remove(&number);
        if let Some(running) = &mut self.running {
            running.remove(number);
        }
    }
}
