//! The sealed carrier of this host: the engine that decides about sessions, the packet threads that
//! use them, and a thread that carries word between the two.
//!
//! Peers come with the tables and wait until there is a key; from then on they are the engine's. One
//! lock guards all of it. Packet threads never take it.

mod clients;
mod clock;
mod control;
mod counters;
mod keys;
mod parse;
mod recent;
mod report;
mod revocations;
mod running;
mod service;
mod warm;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use weft_abi::client_endpoint;
use weft_tunnel::PeerId;

use crate::failure::Failure;
use crate::plane::Plane;

pub(crate) use parse::{SealedPeer, Settings};
pub(crate) use service::SealingService;

use revocations::Passed;
use running::Running;

/// The sealed carrier.
pub(crate) struct Sealing {
    plane: Arc<Plane>,
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
    pub(crate) fn new(plane: Arc<Plane>) -> Arc<Self> {
        let state_folder = plane.config().state_folder.clone();
        let sealing = Self { plane, state_folder, core: Mutex::default(), news: Notify::new() };
        sealing.restore_clients();
        Arc::new(sealing)
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
        let configured = running.as_ref().map(report::configured);
        configured.ok_or_else(|| Failure::internal("the sealed carrier does not run"))
    }

    fn start(
        self: &Arc<Self>,
        settings: Settings,
        peers: &BTreeMap<u32, Member>,
    ) -> Result<Running, Failure> {
        let tap: OwnedFd = self.plane.seal_tap()?;
        let (running, events) = Running::start(settings, tap, &self.state_folder, peers)?;
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
        for host_id in gone {
            core.remove(host_id);
        }
    }

    /// Takes peers that the tables have now.
    pub(crate) fn put(&self, changes: Changes) {
        let mut core = self.core();
        core.expel_impostors(&changes.put);
        let Core { peers, running } = &mut *core;
        for (host_id, peer) in changes.put {
            let vnis = self.plane.sealed_vnis(host_id);
            let member = Member { peer, vnis };
            if let Some(running) = running {
                running.put(host_id, &member);
            }
            peers.insert(host_id, member);
        }
        let mtus = running.as_mut().map(Running::take_mtus).unwrap_or_default();
        drop(core);
        self.tell_kernel(mtus);
    }

    /// Tells the programs what fits the way to a host or client.
    fn tell_kernel(&self, mtus: Vec<(PeerId, u16)>) {
        for (PeerId(host_id), mtu) in mtus {
            self.plane.set_sealed_mtu(host_id, mtu);
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
