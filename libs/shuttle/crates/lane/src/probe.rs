//! Tests at start-up of what some kernels get wrong, on sockets of their own and on the TAP itself.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use weft_seal::{Gso, META_BYTES, SealMeta, Unfinished, VNET_BYTES, VnetHeader};

use crate::address::RawAddress;
use crate::lanes::Lanes;
use crate::socket::{RECEIVE_BYTES, UdpSocket};
use crate::switches::{Offload, State};
use crate::tap::Tap;

const DATAGRAM_BYTES: usize = 1200;
/// How long a datagram over the loopback may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// What this kernel does right, by [`Offload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes([bool; Offload::ALL.len()]);

impl Probes {
    /// Sends batches over the loopback, and writes a super-packet for nobody (host id 0, addresses of RFC
    /// 5737) to the TAP.
    pub fn run(tap: &Tap) -> Self {
        let (unequal, equal) = (3 * DATAGRAM_BYTES - 100, 3 * DATAGRAM_BYTES);
        Self(Offload::ALL.map(|offload| match offload {
            Offload::UdpGso => crosses(unequal, false),
            Offload::UdpGro => crosses(unequal, true),
            Offload::EqualTail => crosses(equal, false) && crosses(equal, true),
            Offload::TapGso => takes_super_packet(tap),
        }))
    }

    /// One bit for each offload that passed, by its number.
    pub fn bits(&self) -> u32 {
        (0..).zip(self.0).map(|(number, passed)| u32::from(passed) << number).sum()
    }

    /// What [`Self::bits`] told, on the same machine since its boot.
    pub fn from_bits(bits: u32) -> Self {
        Self(Offload::ALL.map(|offload| bits >> (offload as u32) & 1 == 1))
    }

    /// Whether the kernel does it right.
    pub fn passed(&self, offload: Offload) -> bool {
        self.0[offload as usize]
    }

    /// Switches off what failed.
    pub fn apply(&self, lanes: &Lanes) {
        for offload in Offload::ALL.into_iter().filter(|offload| !self.passed(*offload)) {
            lanes.set_offload(offload, State::ProbeFailed);
        }
    }
}

/// Whether a batch of that length comes over the loopback as it was.
fn crosses(bytes: usize, gro: bool) -> bool {
    let sent: Vec<u8> = (0..bytes).map(|at| (at / 7).to_le_bytes()[0]).collect();
    sent_and_received(&sent, gro).is_ok_and(|received| received == sent)
}

fn sent_and_received(sent: &[u8], gro: bool) -> io::Result<Vec<u8>> {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (from, to) = (UdpSocket::bind(loopback(0))?, UdpSocket::bind(loopback(0))?);
    to.set_gro(gro)?;
    to.set_patience(PATIENCE)?;
    let target =
        RawAddress::new(loopback(to.port()?), to.family()).ok_or(io::ErrorKind::InvalidInput)?;
    let datagram_bytes = u16::try_from(DATAGRAM_BYTES).unwrap_or(u16::MAX);
    from.send(&target, None, sent, Some(datagram_bytes))?;
    let mut all = Vec::new();
    let mut buffer = vec![0; RECEIVE_BYTES];
    while all.len() < sent.len() {
        let received = to.receive(&mut buffer, 0)?;
        let expected = (sent.len() - all.len()).min(DATAGRAM_BYTES);
        if received.datagram_bytes.min(received.bytes) != expected {
            return Err(io::ErrorKind::InvalidData.into());
        }
        all.extend_from_slice(&buffer[..received.bytes]);
    }
    Ok(all)
}

/// Writes a TCP super-packet of three segments. Only EINVAL speaks against super-packets: a device that
/// is down, say, takes no frame at all.
fn takes_super_packet(tap: &Tap) -> bool {
    const TRANSPORT: u16 = 34;
    const PAYLOAD: usize = 3 * DATAGRAM_BYTES;
    let meta_bytes = u16::try_from(META_BYTES).unwrap_or_default();
    let vnet = VnetHeader {
        unfinished: Some(Unfinished { start: meta_bytes + TRANSPORT, offset: 16 }),
        gso: Some((Gso::Tcp4, u16::try_from(DATAGRAM_BYTES).unwrap_or_default())),
        ecn: false,
        header_bytes: meta_bytes + TRANSPORT + 20,
    };
    let meta = SealMeta { ethertype: 0x0800, host_id: 0, vni: 0 };
    let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let length = u16::try_from(40 + PAYLOAD).unwrap_or_default().to_be_bytes();
    // The kernel checks no IPv4 checksum here, and what reads the frame drops it before it would.
    let mut packet = [0; 40 + PAYLOAD];
    packet[..10].copy_from_slice(&[0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 1, 6]);
    packet[12..20].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    packet[32] = 5 << 4;
    let mut header = [0; VNET_BYTES + 14 + META_BYTES];
    header[..VNET_BYTES].copy_from_slice(&vnet.to_bytes());
    header[VNET_BYTES..][..14].copy_from_slice(&ethernet);
    header[VNET_BYTES + 14..].copy_from_slice(&meta.to_bytes());
    let written = tap.write(&[IoSlice::new(&header), IoSlice::new(&packet)]);
    written.err().and_then(|error| error.raw_os_error()) != Some(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_can_be_written_down() {
        for bits in 0..1 << Offload::ALL.len() {
            let probes = Probes::from_bits(bits);
            assert_eq!(probes.bits(), bits);
            assert_eq!(probes.passed(Offload::TapGso), bits & 1 << (Offload::TapGso as u32) != 0);
        }
    }

    #[test]
    fn a_whole_batch_comes_back_equal_and_a_changed_one_does_not() {
        let sent: Vec<u8> = vec![3; 2 * DATAGRAM_BYTES + 1];
        for gro in [false, true] {
            assert_eq!(sent_and_received(&sent, gro).unwrap(), sent);
        }
        let too_long = vec![3; 70_000];
        assert!(sent_and_received(&too_long, true).is_err());
    }
}
