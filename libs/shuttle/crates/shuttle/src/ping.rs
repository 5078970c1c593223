//! Echo requests from inside an endpoint's namespace.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};
use tonic::Status;
use weft_io::{EchoSocket, Reply};

use crate::convert;
use crate::failure::Failure;
use crate::proto::{self, ping_response::Outcome};

const COUNT_MAX: u32 = 65_535;
const INTERVAL_MS_MIN: u32 = 1;
const TIMEOUT_MS_MAX: u32 = 60_000;
const PAYLOAD_BYTES_MAX: u32 = 65_000;
/// Answers on their way to a caller who does not read.
const ANSWERS_MAX: usize = 64;

/// A checked request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) source_endpoint_id: u32,
    pub(crate) target: IpAddr,
    count: u16,
    interval: Duration,
    timeout: Duration,
    payload_bytes: usize,
}

impl Request {
    pub(crate) fn parse(message: &proto::PingRequest) -> Result<Self, Failure> {
        let in_range = |name, value: u32, min, max| {
            if (min..=max).contains(&value) {
                Ok(value)
            } else {
                Err(Failure::invalid(format!("{name} {value} is not in {min}..={max}")))
            }
        };
        let count = in_range("count", message.count, 1, COUNT_MAX)?;
        let interval_ms =
            in_range("interval_ms", message.interval_ms, INTERVAL_MS_MIN, TIMEOUT_MS_MAX)?;
        let timeout_ms = in_range("timeout_ms", message.timeout_ms, 1, TIMEOUT_MS_MAX)?;
        let payload_bytes = in_range("payload_bytes", message.payload_bytes, 0, PAYLOAD_BYTES_MAX)?;
        Ok(Self {
            source_endpoint_id: message.source_endpoint_id,
            target: convert::address(&message.target_address)?,
            count: u16::try_from(count).map_err(|_| Failure::invalid("count"))?,
            interval: Duration::from_millis(interval_ms.into()),
            timeout: Duration::from_millis(timeout_ms.into()),
            payload_bytes: usize::try_from(payload_bytes)
                .map_err(|_| Failure::invalid("payload_bytes"))?,
        })
    }
}

type Answers = mpsc::Sender<Result<proto::PingResponse, Status>>;

/// Sends the requests and reports each as soon as its fate is known.
pub(crate) fn start(
    request: Request,
    socket: OwnedFd,
) -> Result<mpsc::Receiver<Result<proto::PingResponse, Status>>, Failure> {
    // Tells the requests of several calls in one namespace apart.
    let identifier = u16::try_from(crate::log::now_us() & 0xffff).unwrap_or_default();
    let socket = EchoSocket::new(socket, request.target, identifier)?;
    // SAFETY: the socket owns its descriptor, and gives the same one until it is dropped.
    let socket = unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?;
    let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
    tokio::spawn(async move {
        let mut run = Run { request, socket, pending: HashMap::new(), next: 0, answers: sender };
        if let Err(error) = run.run().await {
            let status = Failure::internal(format!("the echo socket failed: {error}"));
            // The caller may be gone.
            let _ = run.answers.send(Err(status.into())).await;
        }
    });
    Ok(receiver)
}

struct Run {
    request: Request,
    socket: AsyncFd<EchoSocket>,
    pending: HashMap<u16, Instant>,
    next: u16,
    answers: Answers,
}

impl Run {
    async fn run(&mut self) -> io::Result<()> {
        let mut ticks = interval(self.request.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.next < self.request.count || !self.pending.is_empty() {
            if !self.step(&mut ticks).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits for what comes first; false when the caller is gone.
    async fn step(&mut self, ticks: &mut Interval) -> io::Result<bool> {
        let deadline = self.pending.values().min().map(|sent| *sent + self.request.timeout);
        let has_more = self.next < self.request.count;
        let answers = self.answers.clone();
        tokio::select! {
            () = answers.closed() => Ok(false),
            ready = self.socket.readable() => {
                ready?.clear_ready();
                self.receive().await
            }
            _ = ticks.tick(), if has_more => self.send().await,
            () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => self.expire().await,
        }
    }

    async fn send(&mut self) -> io::Result<bool> {
        let sequence = self.next;
        self.next += 1;
        let sent = Instant::now();
        match self.socket.get_ref().send(sequence, self.request.payload_bytes) {
            Ok(()) => {
                self.pending.insert(sequence, sent);
                Ok(true)
            }
            Err(error) => Ok(self.tell(sequence, Outcome::Unreachable(error.to_string())).await),
        }
    }

    async fn receive(&mut self) -> io::Result<bool> {
        loop {
            let reply = match self.socket.get_ref().receive() {
                Ok(reply) => reply,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            let (sequence, outcome) = match reply {
                Some(Reply::Answered { sequence }) => (sequence, None),
                Some(Reply::Unreachable { sequence, reason }) => {
                    (sequence, Some(Outcome::Unreachable(reason)))
                }
                None => continue,
            };
            let Some(sent) = self.pending.remove(&sequence) else { continue };
            let rtt = u64::try_from(now.duration_since(sent).as_nanos()).unwrap_or(u64::MAX);
            if !self.tell(sequence, outcome.unwrap_or(Outcome::RttNs(rtt))).await {
                return Ok(false);
            }
        }
    }

    async fn expire(&mut self) -> io::Result<bool> {
        let now = Instant::now();
        let late: Vec<u16> = self
            .pending
            .iter()
            .filter(|(_, sent)| **sent + self.request.timeout <= now)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in late {
            self.pending.remove(&sequence);
            if !self.tell(sequence, Outcome::TimedOut(true)).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn tell(&self, sequence: u16, outcome: Outcome) -> bool {
        let response = proto::PingResponse { sequence: sequence.into(), outcome: Some(outcome) };
        self.answers.send(Ok(response)).await.is_ok()
    }
}
