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
    pub(crate) mac_keys: MacKeys,
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
        let mac_keys = MacKeys::of(&config.key.public());
        Self {
            cookies: CookieIssuer::new(&mac_keys, &mut *random, now.monotonic),
            load: Load::new(config.load, now.monotonic),
            stamps: Stamps::new(config.persisted_stamp),
            mac_keys,
            random,
            indices: Indices::default(),
            half_open: 0,
            refusals: config.refusals,
            config,
            next_serial: 0,
            outputs: VecDeque::new(),
        }
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

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("half_open", &self.half_open)
            .field("outputs", &self.outputs.len())
            .finish_non_exhaustive()
    }
}
