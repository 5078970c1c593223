//! ICMP echo with round trip times in nanoseconds, taken as ping(8) takes them: from before the send to the time at which the kernel
//! received the reply. So the wake-up of this process is not part of them.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::args::Args;
use crate::{Outcome, print_ready, sys};

const ECHO_HEADER_BYTES: usize = 8;
const IPV4_HEADER_MIN_BYTES: usize = 20;

/// Type numbers of echo request and reply: RFC 792 and RFC 4443.
fn types(family: IpAddr) -> (u8, u8) {
    if family.is_ipv4() { (8, 0) } else { (128, 129) }
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// The kernel fills in the checksum of `ICMPv6`, which covers addresses that only it knows.
fn request(to: IpAddr, identifier: u16, sequence: u16, size: usize) -> Vec<u8> {
    let mut packet = vec![0_u8; ECHO_HEADER_BYTES + size];
    packet[0] = types(to).0;
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    if to.is_ipv4() {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// Sequence of an echo reply to us; a raw IPv4 socket delivers the IP header as well.
fn reply_sequence(to: IpAddr, identifier: u16, packet: &[u8]) -> Option<u16> {
    let icmp = if to.is_ipv4() {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        packet.get(header.max(IPV4_HEADER_MIN_BYTES)..)?
    } else {
        packet
    };
    let echo = icmp.get(..ECHO_HEADER_BYTES)?;
    (echo[0] == types(to).1 && echo[4..6] == identifier.to_be_bytes())
        .then(|| u16::from_be_bytes([echo[6], echo[7]]))
}

/// Value at `share` (0 to 1) of a sorted row, by the nearest rank.
pub(crate) fn quantile(sorted: &[u64], share: f64) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a row has far fewer than 2^52 entries"
    )]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// `ping`. Options: `--to`, `--count`, `--interval-us`, `--timeout-ms`, `--size`; with `--until-answered` it asks every interval,
/// takes the answer to any of its requests, and ends.
pub(crate) fn ping(args: &Args) -> Outcome {
    let to: IpAddr = args.required("to")?;
    let count: u32 = args.or("count", 1)?;
    let interval = Duration::from_micros(args.or("interval-us", 1000)?);
    let timeout = Duration::from_millis(args.or("timeout-ms", 1000)?);
    let size: usize = args.or("size", 56)?;
    let (domain, protocol) = if to.is_ipv4() {
        (Domain::IPV4, Protocol::ICMPV4)
    } else {
        (Domain::IPV6, Protocol::ICMPV6)
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    let identifier = (std::process::id() & 0xffff) as u16;
    let until_answered = args.switch("until-answered");
    let patience = if until_answered { interval } else { timeout };
    // Set once: a call between request and reply would be measured with them.
    socket.set_read_timeout(Some(patience))?;
    sys::enable_timestamps(&socket)?;
    let mut buffer = vec![0_u8; 65_536];
    let mut answered_at_ns = None;
    let mut times = Vec::with_capacity(count as usize);
    let mut application_times = Vec::with_capacity(count as usize);
    let (mut sent, mut errors) = (0_u64, 0_u64);
    print_ready();

    for number in 0..count {
        if sys::is_stopped() {
            break;
        }
        let sequence = (number & 0xffff) as u16;
        let packet = request(to, identifier, sequence, size);
        let start = Instant::now();
        let sent_at_ns = sys::realtime_ns();
        match socket.send(&packet) {
            Ok(_) => sent += 1,
            Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => {
                errors += 1;
                sleep(interval);
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        while start.elapsed() < patience {
            match sys::receive_with_timestamp(&socket, &mut buffer) {
                Ok((length, received_at_ns))
                    if reply_sequence(to, identifier, &buffer[..length])
                        .is_some_and(|answered| answered == sequence || until_answered) =>
                {
                    application_times
                        .push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
                    answered_at_ns = Some(sys::monotonic_ns());
                    let received_at_ns = received_at_ns.unwrap_or_else(sys::realtime_ns);
                    times.push(received_at_ns.saturating_sub(sent_at_ns));
                    break;
                }
                Err(_) if sys::is_stopped() => break,
                // The socket reports ICMP errors (unreachable, too big) as errors of the next call: the reply may still come.
                Ok(_) | Err(_) => {}
            }
        }
        if until_answered && answered_at_ns.is_some() {
            break;
        }
        if let Some(rest) = interval.checked_sub(start.elapsed()) {
            sleep(rest);
        }
    }
    let first = times.first().copied();
    times.sort_unstable();
    application_times.sort_unstable();
    Ok(json!({
        "sent": sent,
        "received": times.len(),
        "lost": sent - times.len() as u64,
        "send_errors": errors,
        "first_ns": first,
        "answered_at_ns": answered_at_ns,
        "min_ns": times.first(),
        "p50_ns": quantile(&times, 0.5),
        "p90_ns": quantile(&times, 0.9),
        "p99_ns": quantile(&times, 0.99),
        "max_ns": times.last(),
        "application_p50_ns": quantile(&application_times, 0.5),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_a_checksum_that_verifies() {
        let packet = request("10.0.0.1".parse().unwrap(), 0x1234, 7, 57);
        assert_eq!(checksum(&packet), 0);
    }

    #[test]
    fn only_our_own_reply_counts() {
        let to: IpAddr = "10.0.0.1".parse().unwrap();
        let mut packet = vec![0x45; IPV4_HEADER_MIN_BYTES];
        packet.extend([0, 0, 0, 0, 0x12, 0x34, 0, 7]);
        assert_eq!(reply_sequence(to, 0x1234, &packet), Some(7));
        assert_eq!(reply_sequence(to, 0x1235, &packet), None);
        packet[IPV4_HEADER_MIN_BYTES] = 8;
        assert_eq!(reply_sequence(to, 0x1234, &packet), None);
        assert_eq!(reply_sequence(to, 0x1234, &packet[..22]), None);
    }

    #[test]
    fn quantiles_are_values_of_the_row() {
        let row: Vec<u64> = (1..=200).collect();
        assert_eq!(quantile(&row, 0.5), Some(100));
        assert_eq!(quantile(&row, 0.99), Some(198));
        assert_eq!(quantile(&row, 1.0), Some(200));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
