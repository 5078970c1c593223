//! Whole frames: sent as given, or counted as they arrive.

use std::io::Read as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::args::Args;
use crate::{Outcome, print_ready, sys};

const TICK: Duration = Duration::from_millis(50);
const FRAME_MAX_BYTES: usize = 1 << 17;

/// `frame-send`. Options: `--device`, `--frame` (hexadecimal), `--count`, `--interval-us`.
pub(crate) fn send(args: &Args) -> Outcome {
    let device: String = args.required("device")?;
    let frame = args.bytes("frame")?;
    let count: u64 = args.or("count", 1)?;
    let interval = Duration::from_micros(args.or("interval-us", 100)?);
    let socket = sys::packet_socket(&device)?;
    print_ready();
    for _ in 0..count {
        socket.send(&frame)?;
        sleep(interval);
    }
    Ok(json!({ "sent": count }))
}

/// `sniff`. Options: `--device`, `--match` (hexadecimal), `--duration-ms`.
pub(crate) fn sniff(args: &Args) -> Outcome {
    let device: String = args.required("device")?;
    let pattern = args.bytes("match")?;
    let duration = args.duration()?.unwrap_or(Duration::MAX);
    let mut socket = sys::packet_socket(&device)?;
    socket.set_read_timeout(Some(TICK))?;
    let mut buffer = vec![0_u8; FRAME_MAX_BYTES];
    let (mut frames, mut matched) = (0_u64, 0_u64);
    print_ready();

    let start = Instant::now();
    while start.elapsed() < duration && !sys::is_stopped() {
        match socket.read(&mut buffer) {
            Ok(length) => {
                frames += 1;
                matched += u64::from(contains(&buffer[..length], &pattern));
            }
            Err(error) if sys::is_pause(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({ "frames": frames, "matched": matched }))
}

fn contains(frame: &[u8], pattern: &[u8]) -> bool {
    !pattern.is_empty() && frame.windows(pattern.len()).any(|window| window == pattern)
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn a_pattern_is_found_anywhere_in_a_frame() {
        assert!(contains(b"abcdef", b"ef"));
        assert!(!contains(b"abcdef", b"fe"));
        assert!(!contains(b"ab", b"abc"));
        assert!(!contains(b"abc", b""));
    }
}
