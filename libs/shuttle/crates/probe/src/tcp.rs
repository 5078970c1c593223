//! Requests and answers over one TCP connection, one at a time: how long an application waits for another.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::args::Args;
use crate::ping::quantile;
use crate::{Outcome, print_ready, sys};

/// How long a wait lasts before it looks whether it is time to stop.
const TICK: Duration = Duration::from_millis(50);
/// How often a server without a connection looks for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(1);
const MESSAGE_MAX_BYTES: usize = 65_536;

/// `tcp-echo`. Options: `--listen`, `--duration-ms`. Serves one connection after the other.
pub(crate) fn echo(args: &Args) -> Outcome {
    let listen: SocketAddr = args.required("listen")?;
    let duration = args.duration()?.unwrap_or(Duration::MAX);
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    print_ready();

    let start = Instant::now();
    let is_over = || sys::is_stopped() || start.elapsed() >= duration;
    let (mut connections, mut echoed_bytes) = (0_u64, 0_u64);
    while !is_over() {
        match listener.accept() {
            Ok((stream, _)) => {
                connections += 1;
                echoed_bytes += echo_all(stream, &is_over)?;
            }
            Err(error) if sys::is_pause(&error) => sleep(ACCEPT_PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({ "connections": connections, "echoed_bytes": echoed_bytes }))
}

/// Sends everything back until the other side closes; returns the count of bytes.
fn echo_all(mut stream: TcpStream, is_over: &impl Fn() -> bool) -> std::io::Result<u64> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TICK))?;
    let mut buffer = vec![0_u8; MESSAGE_MAX_BYTES];
    let mut echoed_bytes = 0;
    while !is_over() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                stream.write_all(&buffer[..length])?;
                echoed_bytes += length as u64;
            }
            Err(error) if sys::is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(echoed_bytes)
}

/// `tcp-ask`. Options: `--to`, `--count`, `--size` (bytes of a request and of its answer), `--timeout-ms` (of an answer).
pub(crate) fn ask(args: &Args) -> Outcome {
    let to: SocketAddr = args.required("to")?;
    let count: usize = args.or("count", 1)?;
    let size: usize = args.or("size", 1)?;
    let timeout = Duration::from_millis(args.or("timeout-ms", 1000)?);
    if !(1..=MESSAGE_MAX_BYTES).contains(&size) {
        return Err(format!("a request has 1 to {MESSAGE_MAX_BYTES} bytes").into());
    }
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    let mut message = vec![0_u8; size];
    let mut times = Vec::with_capacity(count);
    print_ready();

    for _ in 0..count {
        if sys::is_stopped() {
            break;
        }
        let start = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    times.sort_unstable();
    Ok(json!({
        "answered": times.len(),
        "min_ns": times.first(),
        "p50_ns": quantile(&times, 0.5),
        "p90_ns": quantile(&times, 0.9),
        "p99_ns": quantile(&times, 0.99),
        "max_ns": times.last(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back_in_order_until_the_asker_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server =
            std::thread::spawn(move || echo_all(listener.accept().unwrap().0, &|| false).unwrap());
        let mut stream = TcpStream::connect(address).unwrap();
        let mut answer = [0_u8; 5];
        stream.write_all(b"weft1").unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"weft1");
        drop(stream);
        assert_eq!(server.join().unwrap(), 5);
    }

    #[test]
    fn every_request_has_its_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let words = ["--to", &listener.local_addr().unwrap().to_string(), "--count", "7"]
            .map(str::to_owned);
        let server =
            std::thread::spawn(move || echo_all(listener.accept().unwrap().0, &|| false).unwrap());
        let result = ask(&Args::parse(words.into_iter()).unwrap()).unwrap();
        assert_eq!(result["answered"], 7);
        assert!(result["min_ns"].as_u64() <= result["p50_ns"].as_u64());
        assert_eq!(server.join().unwrap(), 7);
    }
}
