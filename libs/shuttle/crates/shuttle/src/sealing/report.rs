//! What operators see of the sealed carrier.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use weft_abi::client_endpoint;
use weft_lane::{Offload, State};
use weft_seal::Cipher;
use weft_tunnel::{PeerId, PeerState, PeerStatus};

use super::Sealing;
use super::clock::{now, unix_time};
use super::running::{Running, View};
use crate::convert;
use crate::proto::{self, Carrier, ConnectionState};

/// What `ConfigureSealing` answers.
pub(super) type Configured = proto::ConfigureSealingResponse;

/// The addresses at which others see this host that are told.
const OBSERVED_MAX: usize = 4;

pub(super) fn configured(running: &Running) -> Configured {
    let speeds = running.speeds;
    let is_chacha_only = running.settings.chacha_only || running.settings.key_log.is_some();
    let cipher = if is_chacha_only { Cipher::ChaCha20Poly1305 } else { speeds.choice() };
    let speed = |cipher: Cipher, bytes_per_second: f64| proto::CipherSpeed {
        cipher: cipher_message(cipher).into(),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a speed")]
        bytes_per_second: bytes_per_second as u64,
    };
    proto::ConfigureSealingResponse {
        public_key: running.settings.key.public().to_vec(),
        listen_port: running.port().into(),
        cipher: cipher_message(cipher).into(),
        speeds: vec![
            speed(Cipher::ChaCha20Poly1305, speeds.chacha_bytes_per_second),
            speed(Cipher::Aes256Gcm, speeds.aes_bytes_per_second),
        ],
        offloads: offload_states(running),
        key_logged: running.settings.key_log.is_some(),
    }
}

/// How each offload is used now.
pub(super) fn offload_states(running: &Running) -> Vec<proto::OffloadState> {
    Offload::ALL.map(|offload| offload_state(running, offload)).to_vec()
}

fn offload_state(running: &Running, offload: Offload) -> proto::OffloadState {
    let state = running.lanes.offload(offload);
    proto::OffloadState {
        offload: offload_message(offload).into(),
        in_use: state == State::On,
        reason: if state == State::On { String::new() } else { state.name().to_owned() },
    }
}

/// All connections, and where others see this host.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) connections: Vec<proto::OpenConnection>,
    pub(super) observed: Vec<proto::Candidate>,
}

impl Sealing {
    /// How things stand with every peer.
    pub(super) fn report(&self) -> Report {
        let core = self.core();
        let Some(running) = &core.running else { return Report::default() };
        let now = now();
        let mut report = Report::default();
        for (host_id, view) in &running.views {
            let Some(status) = running.engine.status(now, PeerId(*host_id)) else { continue };
            report.connections.push(connection(running, *host_id, view, &status));
        }
        report.observed = most_seen(&running.observed(now)).map(observed).collect();
        report
    }
}

/// Each address once, those first that the most peers see, and always in the same order.
fn most_seen(seen: &[SocketAddr]) -> impl Iterator<Item = SocketAddr> + use<> {
    let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    for at in seen {
        let at = SocketAddr::new(at.ip().to_canonical(), at.port());
        *counts.entry(at).or_default() += 1;
    }
    let mut counts: Vec<(SocketAddr, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    counts.into_iter().map(|(at, _)| at).take(OBSERVED_MAX)
}

fn observed(at: SocketAddr) -> proto::Candidate {
    proto::Candidate {
        address: convert::address_bytes(at.ip()),
        port: at.port().into(),
        kind: proto::CandidateKind::Observed.into(),
    }
}

fn connection(
    running: &Running,
    host_id: u32,
    view: &View,
    status: &PeerStatus,
) -> proto::OpenConnection {
    let (state, reason) = match status.state {
        PeerState::Idle => (ConnectionState::Idle, ""),
        PeerState::Connecting => (ConnectionState::Connecting, ""),
        PeerState::Connected => (ConnectionState::Open, ""),
        PeerState::NoEndpoint => (ConnectionState::Unreachable, "no-candidate"),
        PeerState::NoAnswer => (ConnectionState::Unreachable, "no-answer"),
    };
    let endpoint = status.endpoint.map(|endpoint| endpoint.remote);
    let traffic = running.lanes.table().traffic(host_id).unwrap_or_default();
    // Without a session nothing is sent that they could be of use to.
    let offloads = Offload::ALL.into_iter().filter(|offload| {
        state == ConnectionState::Open && running.lanes.offload(*offload) == State::On
    });
    let endpoint_id = client_endpoint(host_id);
    proto::OpenConnection {
        host_id: if endpoint_id.is_some() { 0 } else { host_id },
        endpoint_id: endpoint_id.unwrap_or(0),
        carrier: Carrier::Sealed.into(),
        state: state.into(),
        reason: reason.to_owned(),
        address: endpoint
            .map_or_else(Vec::new, |at| convert::address_bytes(at.ip().to_canonical())),
        port: endpoint.map_or(0, |at| at.port().into()),
        rtt_us: micros(status.path.rtt),
        jitter_us: micros(status.path.jitter),
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 1,000,000"
        )]
        loss_ppm: (status.path.loss.unwrap_or(0.0) * 1e6) as u32,
        path_mtu_bytes: status.path.mtu.and_then(|mtu| u32::try_from(mtu).ok()).unwrap_or(0),
        sent_packets: traffic.sent_datagrams,
        sent_bytes: traffic.sent_bytes,
        received_packets: traffic.received_datagrams,
        received_bytes: traffic.received_bytes,
        open_since_unix_ms: view.open_since.map_or(0, millis),
        last_handshake_unix_ms: status
            .session_age
            .map_or(0, |age| millis(unix_time().saturating_sub(age))),
        cipher: status.cipher.map_or(proto::Cipher::Unspecified, cipher_message).into(),
        offloads: offloads.map(|offload| offload_message(offload).into()).collect(),
    }
}

fn micros(time: Option<Duration>) -> u64 {
    time.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn cipher_message(cipher: Cipher) -> proto::Cipher {
    match cipher {
        Cipher::ChaCha20Poly1305 => proto::Cipher::Chacha20Poly1305,
        Cipher::Aes256Gcm => proto::Cipher::Aes256Gcm,
    }
}

fn offload_message(offload: Offload) -> proto::Offload {
    match offload {
        Offload::UdpGso => proto::Offload::UdpGso,
        Offload::UdpGro => proto::Offload::UdpGro,
        Offload::TapGso => proto::Offload::TapGso,
        Offload::EqualTail => proto::Offload::EqualTail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_most_peers_see_this_host_is_told_first_and_each_place_once() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let [a, b, c] = ["203.0.113.2:9", "203.0.113.2:8", "[::ffff:203.0.113.2]:9"].map(at);
        assert_eq!(most_seen(&[b, a, c]).collect::<Vec<_>>(), [a, b]);
        let many: Vec<SocketAddr> = (1..=9).map(|port| SocketAddr::new(a.ip(), port)).collect();
        assert_eq!(most_seen(&many).count(), OBSERVED_MAX);
    }
}
