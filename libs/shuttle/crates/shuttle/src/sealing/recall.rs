//! What the next process has to know at once: key, settings and peers, as they are in force. It holds
//! keys, so that it belongs into [`super::memory`] and nowhere else.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use prost::Message;
use weft_lane::{CipherSpeeds, Offload, Probes};
use weft_tunnel::{LocalKey, PeerConfig, PeerKind, Stamp};
use zeroize::{Zeroize as _, Zeroizing};

use super::parse::Settings;
use super::warm::Nat;
use super::{Member, SealedPeer};

/// Of what is below. Another one is not read.
pub(super) const FORMAT: u32 = 1;

/// What was found out about this machine, and stays so until its next boot.
#[derive(Clone, Copy)]
pub(super) struct Findings {
    pub(super) probes: Probes,
    pub(super) speeds: CipherSpeeds,
}

/// The whole.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct Recall {
    #[prost(uint32, tag = "1")]
    format: u32,
    /// Layouts of the kernel's programs, which fill the TAP.
    #[prost(uint32, tag = "2")]
    abi: u32,
    #[prost(bytes = "vec", tag = "3")]
    private_key: Vec<u8>,
    #[prost(uint32, tag = "4")]
    port: u32,
    #[prost(bytes = "vec", tag = "5")]
    key_log: Vec<u8>,
    /// One bit for each, by its number.
    #[prost(uint32, tag = "6")]
    offloads_off: u32,
    #[prost(bool, tag = "7")]
    is_chacha_only: bool,
    #[prost(double, tag = "8")]
    chacha_bytes_per_second: f64,
    #[prost(double, tag = "9")]
    aes_bytes_per_second: f64,
    #[prost(uint32, tag = "10")]
    probes: u32,
    #[prost(message, repeated, tag = "11")]
    pub(super) peers: Vec<RecalledPeer>,
    /// Empty for none.
    #[prost(bytes = "vec", tag = "12")]
    previous_private_key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct RecalledPeer {
    #[prost(uint32, tag = "1")]
    pub(super) host_id: u32,
    #[prost(bytes = "vec", tag = "2")]
    public_key: Vec<u8>,
    /// Empty for none.
    #[prost(bytes = "vec", tag = "3")]
    preshared_key: Vec<u8>,
    #[prost(bool, tag = "4")]
    is_stock: bool,
    #[prost(string, repeated, tag = "5")]
    candidates: Vec<String>,
    #[prost(uint32, tag = "6")]
    nat: u32,
    #[prost(uint32, repeated, tag = "7")]
    vnis: Vec<u32>,
    /// Where it was heard last, empty for nowhere.
    #[prost(string, tag = "8")]
    pub(super) endpoint: String,
    /// Its initiations up to this one are replays.
    #[prost(bytes = "vec", tag = "9")]
    greatest_stamp: Vec<u8>,
    #[prost(uint64, tag = "10")]
    pub(super) open_since_unix_ms: u64,
    /// Empty for none.
    #[prost(bytes = "vec", tag = "11")]
    previous_public_key: Vec<u8>,
}

impl Recall {
    pub(super) fn of(settings: &Settings, findings: Findings, peers: Vec<RecalledPeer>) -> Self {
        let off = settings.offloads_off.iter().map(|offload| 1 << (*offload as u32));
        Self {
            format: FORMAT,
            abi: weft_abi::ABI,
            private_key: settings.key.private().to_vec(),
            port: settings.port.into(),
            key_log: settings
                .key_log
                .as_ref()
                .map_or_else(Vec::new, |path| path.as_os_str().as_bytes().to_vec()),
            offloads_off: off.fold(0, |bits, bit: u32| bits | bit),
            is_chacha_only: settings.chacha_only,
            chacha_bytes_per_second: findings.speeds.chacha_bytes_per_second,
            aes_bytes_per_second: findings.speeds.aes_bytes_per_second,
            probes: findings.probes.bits(),
            peers,
            previous_private_key: settings
                .previous_key
                .as_ref()
                .map_or_else(Vec::new, |key| key.private().to_vec()),
        }
    }

    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.encode_to_vec())
    }

    /// `None` where a process of another version wrote it.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let recall = Self::decode(bytes).ok()?;
        (recall.format == FORMAT && recall.abi == weft_abi::ABI).then_some(recall)
    }

    pub(super) fn settings(&self) -> Option<Settings> {
        let off = |offload: &Offload| self.offloads_off >> (*offload as u32) & 1 == 1;
        Some(Settings {
            key: LocalKey::new(self.private_key.first_chunk()?),
            previous_key: self.previous_private_key.first_chunk().map(LocalKey::new),
            port: u16::try_from(self.port).ok().filter(|port| *port != 0)?,
            key_log: (!self.key_log.is_empty()).then(|| OsStr::from_bytes(&self.key_log).into()),
            offloads_off: Offload::ALL.into_iter().filter(off).collect(),
            chacha_only: self.is_chacha_only,
        })
    }

    pub(super) fn findings(&self) -> Findings {
        let speeds = CipherSpeeds {
            chacha_bytes_per_second: self.chacha_bytes_per_second,
            aes_bytes_per_second: self.aes_bytes_per_second,
        };
        Findings { probes: Probes::from_bits(self.probes), speeds }
    }
}

impl RecalledPeer {
    pub(super) fn of(host_id: u32, config: &PeerConfig, nat: Nat, vnis: &[u32]) -> Self {
        Self {
            host_id,
            public_key: config.public_key.to_vec(),
            preshared_key: config.preshared_key.as_ref().map_or_else(Vec::new, |key| key.to_vec()),
            is_stock: config.kind == PeerKind::Stock,
            candidates: config.candidates.iter().map(ToString::to_string).collect(),
            nat: match nat {
                Nat::None => 0,
                Nat::Stable => 1,
                Nat::Symmetric => 2,
            },
            vnis: vnis.to_vec(),
            endpoint: String::new(),
            greatest_stamp: Vec::new(),
            open_since_unix_ms: 0,
            previous_public_key: config
                .previous_public_key
                .map_or_else(Vec::new, |key| key.to_vec()),
        }
    }

    pub(super) fn note_stamp(&mut self, stamp: Option<Stamp>) {
        self.greatest_stamp = stamp.map_or_else(Vec::new, |stamp| stamp.to_bytes().to_vec());
    }

    /// `None` where it is damaged.
    pub(super) fn member(&self) -> Option<Member> {
        let kind = if self.is_stock { PeerKind::Stock } else { PeerKind::Node };
        let mut config = PeerConfig::new(*self.public_key.first_chunk()?, kind);
        config.previous_public_key = self.previous_public_key.first_chunk().copied();
        config.preshared_key = self.preshared_key.first_chunk().map(|key| (*key).into());
        config.candidates = self.candidates.iter().filter_map(|text| text.parse().ok()).collect();
        config.greatest_stamp =
            self.greatest_stamp.first_chunk().map(|bytes| Stamp::from_bytes(*bytes));
        let nat = match self.nat {
            0 => Nat::None,
            1 => Nat::Stable,
            _ => Nat::Symmetric,
        };
        Some(Member { peer: SealedPeer { config, nat }, vnis: self.vnis.clone() })
    }
}

impl Drop for Recall {
    fn drop(&mut self) {
        self.private_key.zeroize();
        self.previous_private_key.zeroize();
    }
}

impl Drop for RecalledPeer {
    fn drop(&mut self) {
        self.preshared_key.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        let speeds = CipherSpeeds { chacha_bytes_per_second: 2e9, aes_bytes_per_second: 8e9 };
        Findings { probes: Probes::from_bits(0b1011), speeds }
    }

    fn settings() -> Settings {
        Settings {
            key: LocalKey::new(&[7; 32]),
            previous_key: Some(LocalKey::new(&[8; 32])),
            port: 61820,
            key_log: Some("/keys".into()),
            offloads_off: vec![Offload::UdpGro, Offload::EqualTail],
            chacha_only: true,
        }
    }

    #[test]
    fn everything_comes_back_as_it_was() {
        let mut config = PeerConfig::new([1; 32], PeerKind::Node);
        config.previous_public_key = Some([3; 32]);
        config.preshared_key = Some([2; 32].into());
        config.candidates =
            vec!["192.0.2.1:61820".parse().unwrap(), "[2001:db8::1]:9".parse().unwrap()];
        let stamp = Stamp::from_unix(std::time::Duration::from_secs(1_700_000_000));
        let mut peer = RecalledPeer::of(70_000, &config, Nat::Stable, &[7, 9]);
        peer.note_stamp(Some(stamp));
        peer.endpoint = "203.0.113.2:500".to_owned();
        let bytes = Recall::of(&settings(), findings(), vec![peer]).to_bytes();
        let recall = Recall::parse(&bytes).unwrap();

        let (before, after) = (settings(), recall.settings().unwrap());
        assert_eq!(after.key.public(), before.key.public());
        let previous = |settings: &Settings| settings.previous_key.as_ref().map(LocalKey::public);
        assert_eq!(previous(&after), previous(&before));
        assert_eq!((after.port, &after.key_log), (before.port, &before.key_log));
        assert_eq!(after.offloads_off, before.offloads_off);
        assert!(after.chacha_only);
        assert_eq!(recall.findings().probes, findings().probes);
        assert_eq!(recall.findings().speeds, findings().speeds);

        let [peer] = recall.peers.as_slice() else { panic!("one peer") };
        let Member { peer: SealedPeer { config: again, nat }, vnis } = peer.member().unwrap();
        assert_eq!(peer.endpoint, "203.0.113.2:500");
        assert_eq!((again.public_key, again.candidates), (config.public_key, config.candidates));
        assert_eq!(again.preshared_key, config.preshared_key);
        assert_eq!(again.previous_public_key, config.previous_public_key);
        assert_eq!((again.kind, again.greatest_stamp), (PeerKind::Node, Some(stamp)));
        assert_eq!((nat, vnis), (Nat::Stable, vec![7, 9]));
    }

    #[test]
    fn what_another_version_wrote_is_not_read() {
        let mut recall = Recall::of(&settings(), findings(), Vec::new());
        recall.abi += 1;
        assert!(Recall::parse(&recall.to_bytes()).is_none());
        recall.abi -= 1;
        recall.format += 1;
        assert!(Recall::parse(&recall.to_bytes()).is_none());
        assert!(Recall::parse(b"\xffnonsense").is_none());
    }
}
