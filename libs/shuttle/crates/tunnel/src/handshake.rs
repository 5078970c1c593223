//! Handshakes with a peer: both roles, repeats, candidates and cookies.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::cookie::Cookie;
use crate::key_log;
use crate::limits::{
    ATTEMPTS_MAX, CANDIDATE_PACE, HALF_OPEN_MAX, INITIATION_INTERVAL_MIN, KEEPALIVE_TIMEOUT,
    NO_ANSWER_AFTER, NODE_RETRIES, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT, REKEY_TIMEOUT_JITTER,
    UNCONFIRMED_MAX,
};
use crate::message::{self, CookieReply, Initiation, Response};
use crate::noise::{Initiator, LocalKey, OpenedInitiation, Secret, TransportKeys};
use crate::output::{Endpoint, Output, Transmit};
use crate::peer::{Peer, PeerKind};
use crate::random;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::shared::Shared;
use crate::time::Now;

/// An initiation whose response may still come.
struct Attempt {
    index: u32,
    state: Initiator,
    mac1: [u8; 16],
    target: SocketAddr,
}

/// A handshake that this host began, with all its repeats.
pub(crate) struct Handshake {
    pub(crate) since: Duration,
    /// The next initiation.
    pub(crate) next_at: Duration,
    round: usize,
    targets: Vec<SocketAddr>,
    cursor: usize,
    /// Oldest first.
    attempts: VecDeque<Attempt>,
    /// An initiation went out sooner than planned because a cookie came, in this round.
    did_hurry: bool,
}

impl Handshake {
    pub(crate) fn is_unanswered(&self, now: Duration) -> bool {
        now >= self.since + NO_ANSWER_AFTER
    }
}

impl Peer {
    /// Begins a handshake where none is under way.
    pub(crate) fn initiate(&mut self, shared: &mut Shared, now: Now) {
        self.initiate_at = None;
        if self.handshake.is_some() {
            return;
        }
        let is_routine = self.is_path_alive(now.monotonic);
        let targets = self.targets(is_routine);
        if targets.is_empty() {
            self.has_no_target = true;
            return;
        }
        self.has_no_target = false;
        let gap = self.retry_after(0);
        let earliest = self.initiated_at.map_or(Duration::ZERO, |at| at + gap);
        self.handshake = Some(Handshake {
            since: now.monotonic,
            next_at: earliest.max(now.monotonic),
            round: 0,
            targets,
            cursor: 0,
            attempts: VecDeque::new(),
            did_hurry: false,
        });
        self.pursue(shared, now);
    }

    /// Sends the initiation that is due, or gives up.
    pub(crate) fn pursue(&mut self, shared: &mut Shared, now: Now) {
        let Some(handshake) = &mut self.handshake else { return };
        if handshake.next_at > now.monotonic {
            return;
        }
        if now.monotonic >= handshake.since + REKEY_ATTEMPT_TIME {
            self.give_up(shared);
            return;
        }
        let target = handshake.targets.get(handshake.cursor).copied();
        handshake.cursor += 1;
        if handshake.cursor < handshake.targets.len() {
            handshake.next_at = now.monotonic + CANDIDATE_PACE;
        } else {
            self.end_round(shared, now.monotonic);
        }
        if let Some(target) = target {
            self.send_initiation(shared, target, now);
        }
    }

    fn end_round(&mut self, shared: &mut Shared, now: Duration) {
        let Some(round) = self.handshake.as_ref().map(|handshake| handshake.round) else { return };
        let jitter = random::jitter(&mut *shared.random, REKEY_TIMEOUT_JITTER);
        let wait = self.retry_after(round) + jitter;
        let targets = self.targets(false);
        if let Some(handshake) = &mut self.handshake {
            handshake.round += 1;
            handshake.next_at = now + wait;
            handshake.targets = targets;
            handshake.cursor = 0;
            handshake.did_hurry = false;
        }
    }

    fn retry_after(&self, round: usize) -> Duration {
        match self.config.kind {
            PeerKind::Node => NODE_RETRIES.get(round).copied().unwrap_or(REKEY_TIMEOUT),
            PeerKind::Stock => REKEY_TIMEOUT,
        }
    }

    /// Whether the peer was heard so lately that the path to it may be taken to work.
    fn is_path_alive(&self, now: Duration) -> bool {
        let is_recent =
            self.heard_at.is_some_and(|at| now < at + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT);
        self.current.is_some() && is_recent
    }

    /// Where to initiate to: where the peer was last, then its candidates.
    fn targets(&self, is_routine: bool) -> Vec<SocketAddr> {
        let last = self.endpoint.map(|endpoint| endpoint.remote);
        if self.config.is_endpoint_pinned || (is_routine && last.is_some()) {
            return last.into_iter().collect();
        }
        let others = self.config.candidates.iter().copied().filter(|other| Some(*other) != last);
        last.into_iter().chain(others).collect()
    }

    fn send_initiation(&mut self, shared: &mut Shared, target: SocketAddr, now: Now) {
        let ephemeral: Secret = random::array(&mut *shared.random).into();
        let stamp = shared.stamp(now);
        let local = &shared.config.key;
        let psk = self.psk();
        let public_key = &self.config.public_key;
        let Some((state, noise)) = Initiator::start(local, public_key, &psk, &ephemeral, stamp)
        else {
            self.give_up(shared);
            return;
        };
        let key = shared.config.key.clone();
        self.log_keys(shared, &key, &self.config.public_key, &ephemeral);
        let index = shared.index(self.id);
        let mut bytes = message::initiation(index, &noise);
        let cookie = self.cookie_for(target, now.monotonic);
        let mac1 = self.mac_keys.write(&mut bytes, cookie);
        self.initiated_at = Some(now.monotonic);
        self.remember(shared, Attempt { index, state, mac1, target });
        let source = self.source_for(target);
        shared.push(Output::Transmit(Transmit { source, target, bytes }));
    }

    fn remember(&mut self, shared: &mut Shared, attempt: Attempt) {
        let Some(handshake) = &mut self.handshake else { return };
        if handshake.attempts.len() >= ATTEMPTS_MAX
            && let Some(oldest) = handshake.attempts.pop_front()
        {
            shared.indices.release(oldest.index);
        }
        handshake.attempts.push_back(attempt);
    }

    fn log_keys(
        &self,
        shared: &mut Shared,
        key: &LocalKey,
        public_key: &[u8; 32],
        ephemeral: &Secret,
    ) {
        if shared.config.is_key_logged {
            let lines = key_log::lines(key, public_key, ephemeral, &self.psk());
            shared.push(Output::KeyLog(lines));
        }
    }

    fn psk(&self) -> Secret {
        self.config.preshared_key.clone().unwrap_or_default()
    }

    fn cookie_for(&self, target: SocketAddr, now: Duration) -> Option<&[u8; 16]> {
        self.cookie.as_ref()?.for_target(target, now)
    }

    fn source_for(&self, target: SocketAddr) -> Option<std::net::IpAddr> {
        self.endpoint.filter(|endpoint| endpoint.remote == target)?.local
    }

    /// Ends the handshake that this host began, whatever came of it.
    pub(crate) fn end_handshake(&mut self, shared: &mut Shared) {
        for attempt in self.handshake.take().into_iter().flat_map(|handshake| handshake.attempts) {
            shared.indices.release(attempt.index);
        }
    }

    fn give_up(&mut self, shared: &mut Shared) {
        self.end_handshake(shared);
        self.did_give_up = true;
        self.silence_at = None;
        self.keepalive_at = None;
    }

    /// Answers an initiation of this peer. `own`: the key that it was for, and the one to answer with.
    pub(crate) fn respond(
        &mut self,
        shared: &mut Shared,
        message: &Initiation<'_>,
        opened: OpenedInitiation,
        (own, ephemeral): (&LocalKey, &Secret),
        from: Endpoint,
        now: Now,
    ) -> Result<(), Refusal> {
        self.check_initiation(shared, &opened, now)?;
        self.greatest_stamp = Some(opened.stamp);
        self.responded_at = Some(now.monotonic);
        let remote_public = opened.remote_public;
        let (keys, noise) = opened.respond(&self.psk()).ok_or(Refusal::Forged)?;
        self.log_keys(shared, own, &remote_public, ephemeral);
        let remote_index = message.sender_index();
        let index = self.begin(shared, remote_index, keys, false, now.monotonic);
        let mut bytes = message::response(index, remote_index, &noise);
        let cookie = self.cookie_for(from.remote, now.monotonic);
        let mac1 = self.mac_keys_of(&remote_public).write(&mut bytes, cookie);
        self.last_response = Some((index, mac1, from.remote));
        let transmit = Transmit { source: from.local, target: from.remote, bytes };
        shared.push(Output::Transmit(transmit));
        Ok(())
    }

    fn check_initiation(
        &self,
        shared: &Shared,
        opened: &OpenedInitiation,
        now: Now,
    ) -> Result<(), Refusal> {
        if self.greatest_stamp.is_some_and(|greatest| opened.stamp <= greatest) {
            return Err(Refusal::Replayed);
        }
        if shared.stamps.is_absurd(opened.stamp, now) {
            return Err(Refusal::FromFuture);
        }
        if self.responded_at.is_some_and(|at| now.monotonic < at + INITIATION_INTERVAL_MIN) {
            return Err(Refusal::TooOften);
        }
        let unconfirmed = self.sessions.iter().filter(|session| !session.is_confirmed).count();
        if shared.half_open >= HALF_OPEN_MAX && unconfirmed < UNCONFIRMED_MAX {
            return Err(Refusal::HalfOpenFull);
        }
        Ok(())
    }

    /// Completes a handshake of ours. The first response that is authentic tells where the peer is.
    pub(crate) fn complete(
        &mut self,
        shared: &mut Shared,
        response: &Response<'_>,
        from: Endpoint,
        now: Now,
    ) -> Result<(), Refusal> {
        let handshake = self.handshake.as_mut().ok_or(Refusal::UnknownIndex)?;
        let index = response.receiver_index();
        let attempt = handshake.attempts.iter_mut().find(|attempt| attempt.index == index);
        let attempt = attempt.ok_or(Refusal::UnknownIndex)?;
        let keys = attempt.state.complete(response.noise()).ok_or(Refusal::Forged)?;
        // The session goes by the index of its initiation.
        handshake.attempts.retain(|attempt| attempt.index != index);
        self.end_handshake(shared);
        self.heard(shared, from, now.monotonic);
        self.begin_at(shared, index, response.sender_index(), keys, true, now.monotonic);
        self.confirm_to_peer(shared, index, now.monotonic);
        Ok(())
    }

    fn begin(
        &mut self,
        shared: &mut Shared,
        remote_index: u32,
        keys: TransportKeys,
        is_initiator: bool,
        now: Duration,
    ) -> u32 {
        let index = shared.index(self.id);
        self.begin_at(shared, index, remote_index, keys, is_initiator, now);
        index
    }

    fn begin_at(
        &mut self,
        shared: &mut Shared,
        index: u32,
        remote_index: u32,
        keys: TransportKeys,
        is_initiator: bool,
        now: Duration,
    ) {
        let serial = shared.serial();
        let session = Session::new(serial, index, remote_index, keys, is_initiator, now);
        self.adopt(shared, session);
        self.prune(shared);
    }

    /// Keeps a cookie for the messages to come and repeats an initiation that was refused.
    pub(crate) fn take_cookie(
        &mut self,
        shared: &mut Shared,
        reply: &CookieReply<'_>,
        now: Now,
    ) -> Result<(), Refusal> {
        let index = reply.receiver_index();
        let (mac1, target) = self.sent_message(index).ok_or(Refusal::UnknownIndex)?;
        let cookie = [Some(&self.mac_keys), self.previous_mac_keys.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|keys| Cookie::open(keys, reply, &mac1, target, now.monotonic));
        self.cookie = Some(cookie.ok_or(Refusal::Forged)?);
        let Some(handshake) = &mut self.handshake else { return Ok(()) };
        let is_for_initiation = handshake.attempts.iter().any(|attempt| attempt.index == index);
        // Once a round: whoever can read the path could otherwise make this host send for ever.
        if is_for_initiation && !handshake.did_hurry && self.config.kind == PeerKind::Node {
            handshake.did_hurry = true;
            self.send_initiation(shared, target, now);
        }
        Ok(())
    }

    /// First MAC and target of the message that was sent with this sender index.
    fn sent_message(&self, index: u32) -> Option<([u8; 16], SocketAddr)> {
        let attempts = self.handshake.iter().flat_map(|handshake| &handshake.attempts);
        let mut sent = attempts.map(|attempt| (attempt.index, attempt.mac1, attempt.target));
        sent.find(|(sent, ..)| *sent == index)
            .or(self.last_response.filter(|(sent, ..)| *sent == index))
            .map(|(_, mac1, target)| (mac1, target))
    }
}
