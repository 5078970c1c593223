//! Datagrams that no honest host sends: recorded on a device, and thrown at a port as they were, changed, or made up, from
//! any source address.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::args::{Args, UsageError};
use crate::{Outcome, print_ready, sys};

const TICK: Duration = Duration::from_millis(50);
const FRAME_MAX_BYTES: usize = 1 << 17;
const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
/// What fits a packet of 1,500 bytes.
const PAYLOAD_MAX_BYTES: usize = 1500 - IPV4_BYTES - UDP_BYTES;
/// Bits of the first bytes are flipped one after the other, those of the rest at random.
const HEAD_BYTES: usize = 64;
/// Where the receiver's index is in a data message.
const INDEX: std::ops::Range<usize> = 4..8;
/// Packets between two looks at the clock.
const PACED: u64 = 32;

/// `record`. Options: `--device`, `--port` (of the receiver), `--file`, `--count`, `--duration-ms`. What the device receives; each
/// datagram is stored with its length in front (4 bytes, least significant first).
pub(crate) fn record(args: &Args) -> Outcome {
    let device: String = args.required("device")?;
    let port: u16 = args.required("port")?;
    let file: String = args.required("file")?;
    let count: usize = args.or("count", usize::MAX)?;
    let duration = args.duration()?.unwrap_or(Duration::MAX);
    let mut socket = sys::packet_socket(&device)?;
    socket.set_read_timeout(Some(TICK))?;
    let mut buffer = vec![0_u8; FRAME_MAX_BYTES];
    let mut stored = Vec::new();
    let mut recorded = 0;
    print_ready();

    let start = Instant::now();
    while recorded < count && start.elapsed() < duration && !sys::is_stopped() {
        match socket.read(&mut buffer) {
            Ok(length) => {
                if let Some(payload) = udp_payload(&buffer[..length], port) {
                    let length = u32::try_from(payload.len())?;
                    stored.extend_from_slice(&length.to_le_bytes());
                    stored.extend_from_slice(payload);
                    recorded += 1;
                }
            }
            Err(error) if sys::is_pause(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    fs::write(file, stored)?;
    Ok(json!({ "recorded": recorded }))
}

/// Of a UDP datagram over IPv4 to that port.
fn udp_payload(frame: &[u8], port: u16) -> Option<&[u8]> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    let (header, rest) = packet.split_at_checked(IPV4_BYTES)?;
    if header[0] != 0x45 || header[9] != 17 || rest.get(2..4)? != port.to_be_bytes() {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([rest[4], rest[5]]));
    rest.get(UDP_BYTES..length)
}

/// `throw`. Options: `--to`, `--from` (`ADDR:PORT`, or `ADDR:PORT` with `--spread` for sources in the /8 of the address), `--kind`,
/// `--file` (of `record`), `--count`, `--rate` (packets/s, 0: as fast as it can), `--seed`.
///
/// Kinds: `random`; and of what is in the file `again` (as it was), `reversed`, `flips` (every bit of the first 64 bytes, then one
/// at random in each), `cuts` (every length), `index` (for another receiver).
///
/// Answers are counted where the source is an address of this namespace.
pub(crate) fn throw(args: &Args) -> Outcome {
    let to: SocketAddrV4 = args.required("to")?;
    let from: SocketAddrV4 = args.required("from")?;
    let is_spread = args.switch("spread");
    let kind: String = args.required("kind")?;
    let rate: u64 = args.or("rate", 0)?;
    let mut dice = Dice(args.or("seed", 1)?);
    let recorded = match args.optional::<String>("file")? {
        Some(file) => split(&fs::read(file)?).ok_or("the file is not one of record")?,
        None => Vec::new(),
    };
    let mut source = Source::new(&kind, recorded)?;
    let count: u64 = args.or("count", source.whole())?;
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    let target = SockAddr::from(to);
    let answers = if is_spread { None } else { Some(std::net::UdpSocket::bind(from)?) };
    if let Some(answers) = &answers {
        answers.set_nonblocking(true)?;
    }
    let (mut answered, mut answered_bytes) = (0_u64, 0);
    let mut hear = |buffer: &mut [u8]| {
        while let Some(Ok(length)) = answers.as_ref().map(|socket| socket.recv(buffer)) {
            answered += 1;
            answered_bytes += length;
        }
    };
    let mut buffer = vec![0; FRAME_MAX_BYTES];
    print_ready();

    let start = Instant::now();
    let mut sent = 0;
    while sent < count && !sys::is_stopped() {
        let payload = source.next(&mut dice);
        let from = if is_spread { spread(from, &mut dice) } else { from };
        match raw.send_to(&packet(from, to, &payload), &target) {
            Ok(_) => sent += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
        if sent % PACED == 0 {
            hear(&mut buffer);
            if let Some(due) = (sent * 1_000_000_000).checked_div(rate) {
                sleep(Duration::from_nanos(due).saturating_sub(start.elapsed()));
            }
        }
    }
    let elapsed = start.elapsed();
    sleep(Duration::from_millis(200));
    hear(&mut buffer);
    Ok(json!({
        "sent": sent,
        "elapsed_ns": u64::try_from(elapsed.as_nanos())?,
        "answered": answered,
        "answered_bytes": answered_bytes,
    }))
}

fn split(mut stored: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut recorded = Vec::new();
    while let Some((length, rest)) = stored.split_first_chunk() {
        let (payload, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        recorded.push(payload.to_vec());
        stored = rest;
    }
    stored.is_empty().then_some(recorded)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Random,
    Again,
    Flips,
    Cuts,
    Index,
}

/// What to throw next.
struct Source {
    kind: Kind,
    recorded: Vec<Vec<u8>>,
    at: usize,
    /// Which bit, or which length, of the present one.
    step: usize,
}

impl Source {
    fn new(kind: &str, mut recorded: Vec<Vec<u8>>) -> Result<Self, Box<dyn std::error::Error>> {
        let kind = match kind {
            "random" => Kind::Random,
            "again" => Kind::Again,
            "reversed" => {
                recorded.reverse();
                Kind::Again
            }
            "flips" => Kind::Flips,
            "cuts" => Kind::Cuts,
            "index" => Kind::Index,
            _ => return Err(UsageError::new(format!("--kind: `{kind}` is none")).into()),
        };
        let least = if kind == Kind::Index { INDEX.end } else { 1 };
        recorded.retain(|payload| payload.len() >= least);
        if kind != Kind::Random && recorded.is_empty() {
            return Err("there is nothing in the file to throw".into());
        }
        Ok(Self { kind, recorded, at: 0, step: 0 })
    }

    /// How many there are until all was thrown once.
    fn whole(&self) -> u64 {
        match self.kind {
            Kind::Cuts => self.recorded.iter().map(|payload| payload.len() as u64).sum(),
            Kind::Flips => self.recorded.iter().map(|payload| bits(payload) as u64).sum(),
            _ => self.recorded.len() as u64,
        }
    }

    fn next(&mut self, dice: &mut Dice) -> Vec<u8> {
        if self.kind == Kind::Random {
            let mut bytes = vec![0; dice.below(PAYLOAD_MAX_BYTES + 1)];
            dice.fill(&mut bytes);
            return bytes;
        }
        let mut payload = self.recorded[self.at].clone();
        let steps = match self.kind {
            Kind::Flips => bits(&payload),
            Kind::Cuts => payload.len(),
            _ => 1,
        };
        match self.kind {
            Kind::Flips => flip(&mut payload, self.step, dice),
            Kind::Cuts => payload.truncate(self.step),
            Kind::Index => {
                let mut index = [0; 4];
                dice.fill(&mut index);
                payload[INDEX].copy_from_slice(&index);
            }
            Kind::Again | Kind::Random => {}
        }
        self.step += 1;
        if self.step >= steps {
            self.step = 0;
            self.at = (self.at + 1) % self.recorded.len();
        }
        payload
    }
}

/// Bits that are flipped of a datagram: those of its head, and as many of its rest.
fn bits(payload: &[u8]) -> usize {
    let head = payload.len().min(HEAD_BYTES) * 8;
    if payload.len() > HEAD_BYTES { 2 * head } else { head }
}

fn flip(payload: &mut [u8], step: usize, dice: &mut Dice) {
    let head = payload.len().min(HEAD_BYTES) * 8;
    let bit = if step < head { step } else { head + dice.below(payload.len() * 8 - head) };
    payload[bit / 8] ^= 1 << (bit % 8);
}

/// Another source within the /8.
fn spread(from: SocketAddrV4, dice: &mut Dice) -> SocketAddrV4 {
    let [net, ..] = from.ip().octets();
    let [a, b, c, ..] = dice.next().to_le_bytes();
    SocketAddrV4::new(Ipv4Addr::new(net, a, b, c), from.port())
}

/// IPv4 and UDP around a payload; the kernel completes the former, and the latter goes without a checksum.
fn packet(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let length = IPV4_BYTES + UDP_BYTES + payload.len();
    let mut packet = Vec::with_capacity(length);
    packet.extend_from_slice(&[0x45, 0]);
    packet.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&from.ip().octets());
    packet.extend_from_slice(&to.ip().octets());
    packet.extend_from_slice(&from.port().to_be_bytes());
    packet.extend_from_slice(&to.port().to_be_bytes());
    let udp_length = UDP_BYTES + payload.len();
    packet.extend_from_slice(&u16::try_from(udp_length).unwrap_or(u16::MAX).to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    packet
}

/// The same numbers for the same seed (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(kind: &str, recorded: &[&[u8]]) -> Vec<Vec<u8>> {
        let recorded = recorded.iter().map(|payload| payload.to_vec()).collect();
        let mut source = Source::new(kind, recorded).unwrap();
        let mut dice = Dice(1);
        (0..source.whole()).map(|_| source.next(&mut dice)).collect()
    }

    #[test]
    fn what_was_recorded_is_thrown_in_order_or_in_the_other_one() {
        assert_eq!(all("again", &[b"a", b"b"]), [b"a", b"b"]);
        assert_eq!(all("reversed", &[b"a", b"b"]), [b"b", b"a"]);
    }

    #[test]
    fn every_bit_of_the_head_is_flipped_once_and_others_at_random() {
        let payload = [0; 100];
        let flipped = all("flips", &[&payload]);
        assert_eq!(flipped.len(), 1024);
        for (bit, changed) in flipped[..512].iter().enumerate() {
            assert_eq!(changed[bit / 8], 1 << (bit % 8));
        }
        for changed in &flipped {
            assert_eq!(changed.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        }
        assert!(flipped[512..].iter().all(|changed| changed[..64] == [0; 64]));
    }

    #[test]
    fn it_is_cut_at_every_length() {
        assert_eq!(all("cuts", &[b"abc"]), [&b""[..], b"a", b"ab"]);
    }

    #[test]
    fn a_datagram_is_found_in_a_frame_and_stored_whole() {
        let to = "10.0.0.2:61820".parse().unwrap();
        let inner = packet("10.0.0.1:7".parse().unwrap(), to, b"weft");
        let frame = [&[0; ETHERNET_BYTES][..], &inner, b"padding"].concat();
        assert_eq!(udp_payload(&frame, 61_820), Some(&b"weft"[..]));
        assert_eq!(udp_payload(&frame, 9), None);
        assert_eq!(split(b"\x02\0\0\0ab\x01\0\0\0c"), Some(vec![b"ab".to_vec(), b"c".to_vec()]));
        assert_eq!(split(b"\x02\0\0\0a"), None);
    }
}
