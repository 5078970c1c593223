//! What the forwarder says of keys and peers; what cannot be is refused here.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use weft_lane::Offload;
use weft_tunnel::{CANDIDATES_MAX, LocalKey, PeerConfig, PeerKind, Secret, is_public_key};
use zeroize::Zeroizing;

use super::warm::Nat;
use crate::convert;
use crate::failure::Failure;
use crate::proto::{self, CandidateKind};

/// Settings of the whole.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(super) key: LocalKey,
    /// The one before, to which peers are still answered.
    pub(super) previous_key: Option<LocalKey>,
    pub(super) port: u16,
    pub(super) key_log: Option<PathBuf>,
    pub(super) offloads_off: Vec<Offload>,
    pub(super) chacha_only: bool,
}

/// A peer of the tables, or a client.
#[derive(Clone, Debug)]
pub(crate) struct SealedPeer {
    pub(super) config: PeerConfig,
    /// As far as its candidates show.
    pub(super) nat: Nat,
}

impl Settings {
    pub(crate) fn parse(message: proto::ConfigureSealingRequest) -> Result<Self, Failure> {
        let private = Zeroizing::new(message.private_key);
        let key = Zeroizing::new(key(&private, "the private key")?);
        let previous = Zeroizing::new(message.previous_private_key);
        let previous = optional_key(&previous, "the previous private key")?.map(Zeroizing::new);
        let port = u16::try_from(message.listen_port).ok().filter(|port| *port != 0);
        Ok(Self {
            key: LocalKey::new(&key),
            previous_key: previous
                .map(|previous| LocalKey::new(&previous))
                .filter(|previous| previous.public() != LocalKey::new(&key).public()),
            port: port.ok_or_else(|| Failure::invalid("the UDP port is none of 1 to 65535"))?,
            key_log: (!message.key_log_path.is_empty()).then(|| message.key_log_path.into()),
            offloads_off: message
                .offloads_off
                .iter()
                .filter_map(|number| offload(*number))
                .collect(),
            chacha_only: message.chacha20_only,
        })
    }
}

impl SealedPeer {
    pub(crate) fn parse(message: proto::SealedPeer) -> Result<Self, Failure> {
        let key_of_peer = key(&message.public_key, "the public key")?;
        let mut config = PeerConfig::new(key_of_peer, PeerKind::Node);
        config.previous_public_key =
            optional_key(&message.previous_public_key, "the previous public key")?
                .filter(|previous| *previous != config.public_key);
        if !message.preshared_key.is_empty() {
            let preshared = Zeroizing::new(message.preshared_key);
            config.preshared_key = Some(Secret::from(key(&preshared, "the preshared key")?));
        }
        let candidates = message.candidates.iter().map(candidate).collect::<Result<Vec<_>, _>>()?;
        let nat = nat(&candidates);
        config.candidates = tried(&candidates);
        Ok(Self { config, nat })
    }

    pub(crate) fn parse_client(message: &proto::WireguardAttachment) -> Result<Self, Failure> {
        let public = key(&message.public_key, "the client's public key")?;
        if !is_public_key(&public) {
            return Err(Failure::invalid(
                "the client's public key is one of the few that everybody knows the private one of",
            ));
        }
        let mut config = PeerConfig::new(public, PeerKind::Stock);
        if !message.preshared_key.is_empty() {
            let preshared = Zeroizing::new(key(&message.preshared_key, "the preshared key")?);
            config.preshared_key = Some(Secret::from(*preshared));
        }
        Ok(Self { config, nat: Nat::None })
    }

    /// Whether this client is the one that an endpoint has.
    pub(super) fn check_same(&self, known: &Self, endpoint_id: u32) -> Result<(), Failure> {
        let differs = |problem| {
            Failure::other_client_attached(endpoint_id, &known.config.public_key, problem)
        };
        if self.config.public_key != known.config.public_key {
            return Err(differs("the key is another"));
        }
        if self.config.preshared_key != known.config.preshared_key {
            return Err(differs("the preshared key is another"));
        }
        Ok(())
    }
}

fn key(bytes: &[u8], what: &str) -> Result<[u8; 32], Failure> {
    bytes
        .try_into()
        .map_err(|_| Failure::invalid(format!("{what} has 32 bytes, not {}", bytes.len())))
}

fn optional_key(bytes: &[u8], what: &str) -> Result<Option<[u8; 32]>, Failure> {
    if bytes.is_empty() { Ok(None) } else { key(bytes, what).map(Some) }
}

fn candidate(message: &proto::Candidate) -> Result<(CandidateKind, SocketAddr), Failure> {
    let port = u16::try_from(message.port).ok().filter(|port| *port != 0);
    let port =
        port.ok_or_else(|| Failure::invalid("the UDP port of a candidate is none of 1 to 65535"))?;
    Ok((message.kind(), SocketAddr::new(convert::address(&message.address)?, port)))
}

/// What is between a host and others that is seen elsewhere than at an address that it knows.
fn nat(candidates: &[(CandidateKind, SocketAddr)]) -> Nat {
    let of = |is_seen: bool| {
        candidates
            .iter()
            .filter(move |(kind, _)| (*kind == CandidateKind::Observed) == is_seen)
            .map(|(_, at)| *at)
    };
    let known: Vec<IpAddr> = of(false).map(|at| at.ip()).collect();
    Nat::of(|address| known.contains(&address), &of(true).collect::<Vec<_>>())
}

/// As many as are tried, in their order. A host that has more addresses of its own is not to be
/// missed at those that others know.
fn tried(candidates: &[(CandidateKind, SocketAddr)]) -> Vec<SocketAddr> {
    let mut surplus = candidates.len().saturating_sub(CANDIDATES_MAX);
    let mut kept: Vec<SocketAddr> = Vec::new();
    for (kind, at) in candidates.iter().rev() {
        if surplus > 0 && *kind == CandidateKind::Own {
            surplus -= 1;
        } else {
            kept.push(*at);
        }
    }
    kept.reverse();
    kept.truncate(CANDIDATES_MAX);
    kept
}

fn offload(number: i32) -> Option<Offload> {
    match proto::Offload::try_from(number).ok()? {
        proto::Offload::UdpGso => Some(Offload::UdpGso),
        proto::Offload::UdpGro => Some(Offload::UdpGro),
        proto::Offload::TapGso => Some(Offload::TapGso),
        proto::Offload::EqualTail => Some(Offload::EqualTail),
        proto::Offload::Unspecified => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kind: CandidateKind, text: &str) -> (CandidateKind, SocketAddr) {
        (kind, text.parse().expect("an address"))
    }

    #[test]
    fn a_host_that_is_seen_where_it_is_not_is_behind_a_nat() {
        let own = seen(CandidateKind::Own, "192.168.1.2:61820");
        let forwarded = seen(CandidateKind::Configured, "203.0.113.2:500");
        let outside = seen(CandidateKind::Observed, "203.0.113.2:61820");
        let other = seen(CandidateKind::Observed, "203.0.113.2:4000");
        assert_eq!(nat(&[own]), Nat::None);
        assert_eq!(nat(&[own, outside]), Nat::Stable);
        assert_eq!(nat(&[own, outside, other]), Nat::Symmetric);
        assert_eq!(nat(&[own, forwarded, outside]), Nat::None);
    }

    #[test]
    fn of_too_many_candidates_the_last_own_ones_are_left_out() {
        let own = (1..=12).map(|n| seen(CandidateKind::Own, &format!("192.168.1.{n}:61820")));
        let outside = seen(CandidateKind::Observed, "203.0.113.2:61820");
        let tried = tried(&own.chain([outside]).collect::<Vec<_>>());
        assert_eq!(tried.len(), CANDIDATES_MAX);
        assert_eq!(tried.last(), Some(&outside.1));
        assert_eq!(tried[0], "192.168.1.1:61820".parse().expect("an address"));
    }
}
