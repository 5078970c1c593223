//! Numbered datagrams: the sender numbers each flow without gaps, the receiver accounts for every number.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::args::Args;
use crate::{Outcome, print_ready, sys};

/// Front of every datagram: magic, label, flow, reserved, sequence, time of sending. Everything is big-endian.
const HEADER_BYTES: usize = 32;
const MAGIC: u32 = u32::from_be_bytes(*b"weft");

/// How long a wait lasts before it looks whether it is time to stop.
const TICK: Duration = Duration::from_millis(50);
/// A pause of the paced sender; at 10,000 packets/s it sends about two at a time.
const PACE: Duration = Duration::from_micros(200);
/// Holds 0.4 s of small packets at 100,000 packets/s: a packet costs the buffer about 800 bytes.
const RECEIVE_BUFFER_BYTES: i32 = 32 << 20;
/// The kernel accepts 64 segments everywhere (`UDP_MAX_SEGMENTS`).
const SEGMENTS_MAX: usize = 64;
const DATAGRAM_MAX_BYTES: usize = 65_507;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// Tells senders apart that must not meet.
    label: u32,
    flow: u32,
    sequence: u64,
    /// On the monotonic clock of this machine, which all its network namespaces share.
    sent_at_ns: u64,
}

fn write_header(packet: &mut [u8], header: Header) {
    packet[0..4].copy_from_slice(&MAGIC.to_be_bytes());
    packet[4..8].copy_from_slice(&header.label.to_be_bytes());
    packet[8..12].copy_from_slice(&header.flow.to_be_bytes());
    packet[16..24].copy_from_slice(&header.sequence.to_be_bytes());
    packet[24..32].copy_from_slice(&header.sent_at_ns.to_be_bytes());
}

/// Header of a datagram, if it is one of ours.
fn read_header(packet: &[u8]) -> Option<Header> {
    let word =
        |at: usize| packet.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let double = |at: usize| Some(u64::from(word(at)?) << 32 | u64::from(word(at + 4)?));
    if packet.len() < HEADER_BYTES || word(0)? != MAGIC {
        return None;
    }
    Some(Header { label: word(4)?, flow: word(8)?, sequence: double(16)?, sent_at_ns: double(24)? })
}

fn open(address: SocketAddr) -> std::io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::DGRAM, None)
}

/// `udp-send`. Options: `--to`, `--from`, `--flows`, `--first-flow` (their numbers begin there), `--first-sequence` (those of the datagrams of each do),
/// `--rate` (datagrams/s of all flows), `--size`, `--segments`, `--label`, `--count` (datagrams of all flows), `--duration-ms`.
pub(crate) fn send(args: &Args) -> Outcome {
    let to: SocketAddr = args.required("to")?;
    let from: Option<SocketAddr> = args.optional("from")?;
    let flow_count: usize = args.or("flows", 1)?;
    let first_flow: u32 = args.or("first-flow", 0)?;
    let first_sequence: u64 = args.or("first-sequence", 0)?;
    let rate: f64 = args.or("rate", 1000.0)?;
    let size: usize = args.or("size", 64)?;
    let segments: usize = args.or("segments", 1)?;
    let label: u32 = args.or("label", 0)?;
    let count: u64 = args.or("count", u64::MAX)?;
    let duration = args.duration()?.unwrap_or(Duration::MAX);
    if size < HEADER_BYTES
        || !(1..=SEGMENTS_MAX).contains(&segments)
        || size * segments > DATAGRAM_MAX_BYTES
    {
        return Err(format!(
            "a datagram is at least {HEADER_BYTES} bytes, segments at most {SEGMENTS_MAX}, together at most {DATAGRAM_MAX_BYTES} bytes"
        )
        .into());
    }

    let mut flows = Vec::with_capacity(flow_count);
    for _ in 0..flow_count {
        let socket = open(to)?;
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        socket.connect(&to.into())?;
        if segments > 1 {
            sys::set_udp_segment(&socket, u16::try_from(size)?)?;
        }
        flows.push((socket, first_sequence));
    }
    let mut packets = vec![vec![0_u8; size * segments]; sys::BATCH];
    print_ready();

    let start = Instant::now();
    let (mut sent, mut refused, mut turn) = (0_u64, 0_u64, 0_usize);
    while sent < count && start.elapsed() < duration && !sys::is_stopped() {
        let due = if rate > 0.0 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count of packets, far below 2^53"
            )]
            let due = (start.elapsed().as_secs_f64() * rate) as u64;
            due.min(count).saturating_sub(sent)
        } else {
            count - sent
        };
        if due < segments as u64 && due < count - sent {
            sleep(PACE);
            continue;
        }
        let sends = usize::try_from(due / segments as u64)?.clamp(1, sys::BATCH);
        // An unpaced sender fills whole batches; a paced one takes turns packet by packet.
        let (batches, per_batch) = if rate > 0.0 { (sends, 1) } else { (1, sends) };
        for _ in 0..batches {
            let flow_index = turn % flow_count;
            turn += 1;
            let (socket, sequence) = &mut flows[flow_index];
            let mut header = Header {
                label,
                flow: first_flow + u32::try_from(flow_index)?,
                sequence: *sequence,
                sent_at_ns: sys::monotonic_ns(),
            };
            for packet in packets.iter_mut().take(per_batch) {
                for segment in packet.chunks_exact_mut(size) {
                    write_header(segment, header);
                    header.sequence += 1;
                }
            }
            match sys::send_batch(socket, &mut packets[..per_batch]) {
                Ok(taken) => {
                    let datagrams = (taken * segments) as u64;
                    *sequence += datagrams;
                    sent += datagrams;
                }
                // The kernel did not take it: the same numbers are sent again, so nothing is missing.
                Err(error) if is_refusal(&error) => refused += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(json!({
        "sent": sent,
        "sent_bytes": sent * size as u64,
        "refused_by_kernel": refused,
        "elapsed_ns": nanoseconds(start.elapsed()),
    }))
}

/// Errors of a send that a later send need not meet.
fn is_refusal(error: &std::io::Error) -> bool {
    sys::is_pause(error)
        || matches!(
            error.raw_os_error(),
            Some(libc::ENOBUFS | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EPERM)
        )
}

/// What arrived of one flow.
#[derive(Default)]
struct Flow {
    number: u32,
    /// From the sending of the first packet to its arrival.
    first_delay_ns: u64,
    received: u64,
    doubled: u64,
    out_of_order: u64,
    highest: Option<u64>,
    seen: Vec<u64>,
    last: Option<Instant>,
    longest_silence: Duration,
}

impl Flow {
    fn note(&mut self, sequence: u64, now: Instant) {
        let (word, bit) = ((sequence / 64) as usize, 1_u64 << (sequence % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.doubled += 1;
            return;
        }
        self.seen[word] |= bit;
        self.received += 1;
        if self.highest.is_some_and(|highest| sequence < highest) {
            self.out_of_order += 1;
        }
        self.highest = self.highest.max(Some(sequence));
        if let Some(last) = self.last {
            self.longest_silence = self.longest_silence.max(now - last);
        }
        self.last = Some(now);
    }

    fn to_json(&self) -> Value {
        json!({
            "flow": self.number,
            "first_delay_ns": self.first_delay_ns,
            "received": self.received,
            "doubled": self.doubled,
            "out_of_order": self.out_of_order,
            "highest": self.highest,
            "longest_silence_ns": nanoseconds(self.longest_silence),
        })
    }
}

/// Sequences past this are not ours: they would make the bitmap of a flow larger than 16 MiB.
const SEQUENCE_MAX: u64 = 1 << 27;
const FLOWS_MAX: usize = 1024;

/// `udp-recv`. Options: `--listen`, `--label` (datagrams with another one are foreign), `--duration-ms`, `--count`.
pub(crate) fn receive(args: &Args) -> Outcome {
    let listen: SocketAddr = args.required("listen")?;
    let label: u32 = args.or("label", 0)?;
    let count: u64 = args.or("count", u64::MAX)?;
    let duration = args.duration()?.unwrap_or(Duration::MAX);
    let socket = open(listen)?;
    sys::enlarge_receive_buffer(&socket, RECEIVE_BUFFER_BYTES)?;
    socket.bind(&listen.into())?;
    socket.set_read_timeout(Some(TICK))?;
    let mut buffers = vec![vec![0_u8; 2048]; sys::BATCH];
    let mut lengths = Vec::with_capacity(sys::BATCH);
    let mut flows: Vec<Flow> = Vec::new();
    let (mut received, mut bytes, mut foreign, mut unknown) = (0_u64, 0_u64, 0_u64, 0_u64);
    let (mut first, mut last) = (None, None);
    print_ready();

    let start = Instant::now();
    while received < count && start.elapsed() < duration && !sys::is_stopped() {
        sys::receive_batch(&socket, &mut buffers, &mut lengths)?;
        let now = Instant::now();
        for (buffer, &length) in buffers.iter().zip(&lengths) {
            let Some(header) = read_header(&buffer[..length]) else {
                unknown += 1;
                continue;
            };
            if header.label != label {
                foreign += 1;
                continue;
            }
            let at = flows.iter().position(|known| known.number == header.flow);
            if header.sequence > SEQUENCE_MAX || (at.is_none() && flows.len() == FLOWS_MAX) {
                unknown += 1;
                continue;
            }
            let at = at.unwrap_or_else(|| {
                let first_delay_ns = sys::monotonic_ns().saturating_sub(header.sent_at_ns);
                flows.push(Flow { number: header.flow, first_delay_ns, ..Flow::default() });
                flows.len() - 1
            });
            flows[at].note(header.sequence, now);
            received += 1;
            bytes += length as u64;
            first.get_or_insert(now);
            last = Some(now);
        }
    }
    let span = first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first);
    let sum = |field: fn(&Flow) -> u64| flows.iter().map(field).sum::<u64>();
    Ok(json!({
        "received": sum(|flow| flow.received),
        "received_bytes": bytes,
        "doubled": sum(|flow| flow.doubled),
        "out_of_order": sum(|flow| flow.out_of_order),
        "foreign": foreign,
        "unknown": unknown,
        "socket_drops": sys::socket_drops(&socket)?,
        "span_ns": nanoseconds(span),
        "flows": flows.iter().map(Flow::to_json).collect::<Vec<_>>(),
    }))
}

/// `udp-echo`. Options: `--listen`, `--duration-ms`.
pub(crate) fn echo(args: &Args) -> Outcome {
    let listen: SocketAddr = args.required("listen")?;
    let duration = args.duration()?.unwrap_or(Duration::MAX);
    let socket = std::net::UdpSocket::bind(listen)?;
    socket.set_read_timeout(Some(TICK))?;
    let mut buffer = vec![0_u8; DATAGRAM_MAX_BYTES];
    let mut echoed = 0_u64;
    print_ready();

    let start = Instant::now();
    while start.elapsed() < duration && !sys::is_stopped() {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                if socket.send_to(&buffer[..length], from).is_ok() {
                    echoed += 1;
                }
            }
            Err(error) if sys::is_pause(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({ "echoed": echoed }))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back_as_it_was_written() {
        let mut packet = [0_u8; HEADER_BYTES];
        let header = Header { label: 7, flow: 3, sequence: u64::MAX - 1, sent_at_ns: 1 << 40 };
        write_header(&mut packet, header);
        assert_eq!(read_header(&packet), Some(header));
        assert_eq!(read_header(&packet[..HEADER_BYTES - 1]), None);
        packet[0] ^= 1;
        assert_eq!(read_header(&packet), None);
    }

    #[test]
    fn a_flow_counts_each_number_once_and_notices_disorder() {
        let now = Instant::now();
        let mut flow = Flow::default();
        for sequence in [0, 1, 3, 2, 3, 200] {
            flow.note(sequence, now);
        }
        assert_eq!((flow.received, flow.doubled, flow.out_of_order), (5, 1, 1));
        assert_eq!(flow.highest, Some(200));
    }
}
