//! From one process to the next.
//!
//! The next process knows key, settings and peers by memory that is kept up to date; socket and TAP are
//! the same, so what comes meanwhile waits in the kernel. After a clean end it has the sessions too.
//! After a crash it has none, and makes new ones at once: then no counter can be used twice, and nothing
//! can be received twice, whatever the process did last.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use weft_lane::{Events, Framing, Tap, UdpSocket};

use super::memory::{self, Memory};
use super::recall::Recall;
use super::running::{Means, Running};
use super::{Core, Member, Sealing, control};
use crate::failure::Failure;
use crate::log;
use crate::parking::{SEAL_MEMORY, SEAL_SESSIONS, SEAL_SOCKET};

impl Sealing {
    /// Goes on where the process before ended, before anything else is done: packets wait. `tap` is
    /// that of the process before.
    pub(crate) fn resume(self: &Arc<Self>, tap: Option<&OwnedFd>) {
        let Some((tap, memory)) = tap.zip(self.parking.take(SEAL_MEMORY)) else { return };
        let sessions = self.parking.take(SEAL_SESSIONS);
        let had_sessions = sessions.is_some();
        let resumed = self.try_resume(tap, memory, sessions);
        if had_sessions {
            // They are used up, or of no use.
            self.parking.remove(SEAL_SESSIONS);
        }
        match resumed {
            Ok((peers, sessions)) => log::info(
                "the sealed carrier goes on",
                json!({ "peers": peers, "sessions_taken_over": sessions }),
            ),
            Err(failure) => {
                self.parking.remove(SEAL_MEMORY);
                log::warn(
                    "the sealed carrier waits for the forwarder",
                    json!({ "error": failure.to_string() }),
                );
            }
        }
    }

    fn try_resume(
        self: &Arc<Self>,
        tap: &OwnedFd,
        memory: OwnedFd,
        sessions: Option<OwnedFd>,
    ) -> Result<(usize, usize), Failure> {
        let tap = Tap::resume(tap.try_clone()?, Framing::Meta);
        let socket = |port| self.socket(port);
        let resumed = Resumed::of(memory, sessions, tap, socket, &self.state_folder)?;
        let Resumed { running, events, peers, sessions } = resumed;
        let count = peers.len();
        *self.core() = Core { peers, running: Some(running) };
        control::spawn(Arc::downgrade(self), events)?;
        Ok((count, sessions))
    }

    /// The start of the process is over.
    pub(crate) fn note_success(&self) {
        if let Some(running) = &self.core().running {
            running.note_success();
        }
    }

    /// Ends, and leaves everything to the next process; says whether there will be one.
    pub(crate) fn hand_over(&self) -> bool {
        if !self.parking.is_kept() {
            return false;
        }
        let Some(running) = self.core().running.take() else { return true };
        match memory::sealed(&running.hand_over()) {
            Ok(sessions) => self.parking.put(SEAL_SESSIONS, sessions.as_fd()),
            Err(error) => {
                log::warn("sessions were not handed over", json!({ "error": error.to_string() }));
            }
        }
        true
    }

    /// Says goodbye to all peers: nobody takes over.
    pub(crate) fn leave(&self) {
        if let Some(running) = self.core().running.take() {
            running.stop();
        }
        for name in [SEAL_MEMORY, SEAL_SESSIONS, SEAL_SOCKET] {
            self.parking.remove(name);
        }
    }
}

/// A carrier that goes on.
pub(super) struct Resumed {
    pub(super) running: Running,
    pub(super) events: Events,
    pub(super) peers: BTreeMap<u32, Member>,
    /// How many were taken over.
    pub(super) sessions: usize,
}

impl Resumed {
    /// Packets flow when it is there.
    pub(super) fn of(
        memory: OwnedFd,
        sessions: Option<OwnedFd>,
        tap: Tap,
        socket: impl FnOnce(u16) -> Result<UdpSocket, Failure>,
        state_folder: &Path,
    ) -> Result<Self, Failure> {
        let (memory, bytes) = Memory::adopt(memory)?;
        let recall = Recall::parse(&bytes);
        let recall =
            recall.ok_or_else(|| Failure::internal("another version wrote down the peers"))?;
        let settings =
            recall.settings().ok_or_else(|| Failure::internal("the settings are damaged"))?;
        let socket = socket(settings.port)?;
        let findings = Some(recall.findings());
        let means = Means { tap, socket, memory: Some(memory), findings };
        let (mut running, events) = Running::prepare(settings, means, state_folder)?;
        let mut peers = BTreeMap::new();
        for peer in &recall.peers {
            if let Some(member) = peer.member() {
                running.put(peer.host_id, &member);
                running.recall(peer);
                peers.insert(peer.host_id, member);
            }
        }
        let sessions = sessions.map_or(0, |sessions| take_over(&mut running, sessions));
        running.begin()?;
        Ok(Self { running, events, peers, sessions })
    }
}

/// Sessions that cannot be taken over begin anew.
fn take_over(running: &mut Running, sessions: OwnedFd) -> usize {
    let imported =
        memory::unsealed(sessions).map_err(Failure::from).and_then(|bytes| running.import(&bytes));
    imported.unwrap_or_else(|failure| {
        log::warn("sessions begin anew", json!({ "error": failure.to_string() }));
        0
    })
}
