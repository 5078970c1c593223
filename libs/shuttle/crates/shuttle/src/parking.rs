//! What outlives this process: descriptors that its manager, systemd or `weft-keep`, has for the next
//! one.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use serde_json::json;
use weft_keep::{Parked, Store};

use crate::log;

/// By which first packets come.
pub(crate) const SLOW_TAP: &str = "slow-tap";
/// By which frames come to be sealed.
pub(crate) const SEAL_TAP: &str = "seal-tap";
/// To which sealed packets come.
pub(crate) const SEAL_SOCKET: &str = "seal-socket";
/// Key, settings and peers of the sealed carrier.
pub(crate) const SEAL_MEMORY: &str = "seal-memory";
/// Sessions, where the process before ended on purpose.
pub(crate) const SEAL_SESSIONS: &str = "seal-sessions";

/// What this process was given, and where it parks what the next one shall be given.
pub(crate) struct Parking {
    store: Option<Store>,
    parked: Mutex<Parked>,
}

impl Parking {
    /// Takes over at once whatever there is, so that nothing else gets these descriptors.
    pub(crate) fn open() -> Self {
        let parked = Parked::take_from_environment();
        let store = Store::from_environment().unwrap_or_else(|error| {
            log::warn(
                "NOTIFY_SOCKET cannot be reached: a restart will cost packets",
                json!({ "error": error.to_string() }),
            );
            None
        });
        Self { store, parked: Mutex::new(parked) }
    }

    /// Whether the next process will have what this one parks.
    pub(crate) fn is_kept(&self) -> bool {
        self.store.is_some()
    }

    /// What the process before parked, once. It stays parked.
    pub(crate) fn take(&self, name: &str) -> Option<OwnedFd> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).take(name)
    }

    /// Parks a descriptor in the place of what is parked by that name.
    pub(crate) fn put(&self, name: &str, descriptor: BorrowedFd<'_>) {
        self.tell(name, |store| {
            store.remove(name)?;
            store.put(name, descriptor)
        });
    }

    pub(crate) fn remove(&self, name: &str) {
        self.tell(name, |store| store.remove(name));
    }

    /// This process serves.
    pub(crate) fn ready(&self) {
        self.tell("ready", Store::ready);
    }

    fn tell(&self, name: &str, tell: impl FnOnce(&Store) -> std::io::Result<()>) {
        let Some(store) = &self.store else { return };
        if let Err(error) = tell(store) {
            log::warn(
                "the manager of this process was not told: a restart may cost packets",
                json!({ "of": name, "error": error.to_string() }),
            );
        }
    }
}
