//! What all peers of an engine share.

use std::collections::VecDeque;
use std::fmt;

use weft_seal::Cipher;

use crate::control::Features;
use crate::cookie::{CookieIssuer, MacKeys};
use crate::indices::Indices;
use crate::load::{Load, LoadLimits};
use crate::noise::LocalKey;
use crate::output::{Output, PeerId};
use crate::random::Random;
use crate::refusal::Refusals;
use crate::stamp::{Stamp, Stamps};
use crate::time::Now;

/// What an engine is told once.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The host's own static key.
    pub key: LocalKey,
    /// The one that it had before, to which it still answers. Nothing is initiated with it.
    pub previous_key: Option<LocalKey>,
    /// What peers may send to this host; peers hear of it.
    pub features: Features,
    /// Ciphers that are faster here than ChaCha20-Poly1305, best first. Sub-sessions of the first one
    /// are offered, and those of all are taken.
    pub sub_session_ciphers: Vec<Cipher>,
    /// Every handshake's secrets are given out as [`Output::KeyLog`], and there are no sub-sessions:
    /// Wireshark does not know their keys.
    pub is_key_logged: bool,
    /// What strangers may cost.
    pub load: LoadLimits,
    /// The last [`Output::KeepStamp`] of the process before.
    pub persisted_stamp: Option<Stamp>,
    /// The last [`Output::KeepHandover`] of the process before; zero where there was none.
    pub consumed_handover: u64,
    /// What an engine before counted of what led to nothing.
    pub refusals: Refusals,
}

impl EngineConfig {
    /// No features, no sub-sessions, no key log, the usual limits, nothing persisted.
    pub fn new(key: LocalKey) -> Self {
        Self {
            key,
            previous_key: None,
            features: Features::NONE,
            sub_session_ciphers: Vec::new(),
            is_key_logged: false,
            load: LoadLimits::default(),
            persisted_stamp: None,
            consumed_handover: 0,
            refusals: Refusals::default(),
        }
    }
}

pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    /// Of the present key, then of the one before.
    mac_keys: [Option<MacKeys>; 2],
    pub(crate) cookies: CookieIssuer,
    pub(crate) load: Load,
    pub(crate) random: Box<dyn Random>,
    pub(crate) indices: Indices,
    pub(crate) stamps: Stamps,
    /// Sessions that wait for their first message.
    pub(crate) half_open: usize,
    pub(crate) refusals: Refusals,
    next_serial: u64,
    outputs: VecDeque<Output>,
}

impl Shared {
    pub(crate) fn new(config: EngineConfig, mut random: Box<dyn Random>, now: Now) -> Self {
        Self {
            cookies: CookieIssuer::new(&mut *random, now.monotonic),
            load: Load::new(config.load, now.monotonic),
            stamps: Stamps::new(config.persisted_stamp),
            mac_keys: mac_keys(&config),
            random,
            indices: Indices::default(),
            half_open: 0,
            refusals: config.refusals,
            config,
            next_serial: 0,
            outputs: VecDeque::new(),
        }
    }

    pub(crate) fn set_keys(&mut self, key: LocalKey, previous: Option<LocalKey>) {
        self.config.key = key;
        self.config.previous_key = previous;
        self.mac_keys = mac_keys(&self.config);
    }

    /// The own key that the sender of a message wrote to, as its first MAC tells.
    pub(crate) fn key_of(&self, message: &[u8]) -> Option<(LocalKey, MacKeys)> {
        let keys = [Some(&self.config.key), self.config.previous_key.as_ref()];
        let mut known = keys.into_iter().zip(&self.mac_keys);
        known.find_map(|(key, mac_keys)| {
            let (key, mac_keys) = (key?, mac_keys.as_ref()?);
            mac_keys.is_mac1_valid(message).then(|| (key.clone(), mac_keys.clone()))
        })
    }

    pub(crate) fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    pub(crate) fn index(&mut self, peer: PeerId) -> u32 {
        self.indices.allocate(peer, &mut *self.random)
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs.len()
    }

    /// A stamp for an initiation, and what must be durable before it is sent.
    pub(crate) fn stamp(&mut self, now: Now) -> Stamp {
        let (stamp, reserve) = self.stamps.next(now);
        if let Some(reserve) = reserve {
            self.push(Output::KeepStamp(reserve));
        }
        stamp
    }
}

fn mac_keys(config: &EngineConfig) -> [Option<MacKeys>; 2] {
    let keys = [Some(&config.key), config.previous_key.as_ref()];
    keys.map(|key| key.map(|key| MacKeys::of(&key.public())))
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("half_open", &self.half_open)
            .field("outputs", &self.outputs.len())
            .finish_non_exhaustive()
    }
}
