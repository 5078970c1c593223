//! From the TAP to the socket.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::Cache;
use weft_seal::{Batch, DropReason, TAP_BYTES_MAX, TapFrame};

use crate::counters::Fallback;
use crate::events::Event;
use crate::lanes::{Shared, Worker};
use crate::switches::{Offload, State};
use crate::table::{Peer, Table};
use crate::waiting::Waits;

/// How often a send is repeated while a queue is full.
const RETRIES_MAX: usize = 64;

/// Reads frames and sends them until it is told to stop or the device is gone.
///
/// Frames that are there already share a send where they can; it never waits for one more.
pub(crate) fn run(shared: &Shared, worker: &Worker) -> io::Result<()> {
    let mut table = Cache::new(&shared.table);
    let mut outbox = Outbox::new(shared, worker);
    let mut buffer = vec![0; TAP_BYTES_MAX];
    while !shared.stop.load(Relaxed) {
        match worker.tap.read(&mut buffer, outbox.is_empty()) {
            Ok(read) => accept(table.load(), &mut outbox, &mut buffer[..read]),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => outbox.send(),
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
    outbox.send();
    Ok(())
}

fn accept(table: &Table, outbox: &mut Outbox<'_>, frame: &mut [u8]) {
    let host_id = match TapFrame::parse(frame).map(|frame| frame.meta().host_id) {
        Ok(host_id) => host_id,
        Err(reason) => return outbox.drop(reason),
    };
    match table.peer(host_id) {
        None => outbox.drop(DropReason::PeerUnknown),
        Some(peer) if peer.send.is_none() => {
            outbox.send();
            wait(outbox.shared, outbox.worker, host_id, frame);
        }
        Some(peer) => outbox.push(peer, frame),
    }
}

/// Keeps a frame until there is a session.
fn wait(shared: &Shared, worker: &Worker, host_id: u32, frame: &[u8]) {
    let waits = shared.waiting().push(host_id, frame);
    match waits {
        Waits::No => worker.transmit.drop(DropReason::WaitingFull),
        Waits::First => {
            // Nobody asks for a session that was not told of: the next frame has to be the first.
            if !shared.tell(Event::Wanted { host_id }, &worker.transmit) {
                shared.waiting().take(host_id);
            }
        }
        Waits::Behind => {}
    }
    // The session may have come between the look at the table and the frame's waiting.
    let table = shared.table.load();
    if table.peer(host_id).is_some_and(|peer| peer.send.is_some()) {
        flush(shared, worker, host_id);
    }
}

/// Sends what waits for a host.
pub(crate) fn flush(shared: &Shared, worker: &Worker, host_id: u32) {
    let table = shared.table.load();
    let Some(peer) = table.peer(host_id).filter(|peer| peer.send.is_some()) else { return };
    let frames = shared.waiting().take(host_id);
    if frames.is_empty() {
        return;
    }
    let mut outbox = Outbox::new(shared, worker);
    for mut frame in frames {
        outbox.push(peer, &mut frame);
    }
    outbox.send();
}

/// Sealed datagrams that wait for the send which takes them all.
struct Outbox<'a> {
    shared: &'a Shared,
    worker: &'a Worker,
    batch: Batch,
    /// Whose datagrams they are.
    peer: Option<Arc<Peer>>,
}

impl<'a> Outbox<'a> {
    fn new(shared: &'a Shared, worker: &'a Worker) -> Self {
        Self { shared, worker, batch: Batch::default(), peer: None }
    }

    fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Seals a frame, sending what has to go before it and what is full.
    fn push(&mut self, peer: &Arc<Peer>, frame: &mut [u8]) {
        if !self.peer.as_ref().is_some_and(|known| Arc::ptr_eq(known, peer)) {
            self.send();
            self.peer = Some(Arc::clone(peer));
        }
        if let Err(reason) = self.seal(peer, frame) {
            self.drop(reason);
        }
    }

    /// Drops a frame. What is sealed goes first: frames that end here may come without a pause.
    fn drop(&mut self, reason: DropReason) {
        self.send();
        self.worker.transmit.drop(reason);
    }

    fn seal(&mut self, peer: &Peer, frame: &mut [u8]) -> Result<(), DropReason> {
        let route = peer.route().ok_or(DropReason::PeerUnknown)?;
        let mut split = TapFrame::parse(frame)?.split(&route)?;
        while !split.fill(&mut self.batch)? {
            self.send();
        }
        if !self.batch.is_open() {
            self.send();
        }
        Ok(())
    }

    fn send(&mut self) {
        let Some(peer) = self.peer.as_ref().filter(|_| !self.batch.is_empty()) else { return };
        let sent = &peer.marks.traffic.sent;
        sent.bytes.add(self.batch.bytes().len() as u64);
        sent.datagrams.add(self.batch.datagrams() as u64);
        if !self.shared.switches.is_on(Offload::EqualTail) {
            self.batch.end_unequal();
        }
        let way = Way { shared: self.shared, worker: self.worker, peer };
        way.send(self.batch.bytes(), self.batch.datagram_bytes());
        self.batch.clear();
    }
}

/// How one batch goes to its peer.
struct Way<'a> {
    shared: &'a Shared,
    worker: &'a Worker,
    peer: &'a Peer,
}

impl Way<'_> {
    fn send(&self, bytes: &[u8], datagram_bytes: usize) {
        if bytes.len() <= datagram_bytes || !self.shared.switches.is_on(Offload::UdpGso) {
            return self.send_singly(bytes, datagram_bytes);
        }
        let segment = u16::try_from(datagram_bytes).unwrap_or(u16::MAX);
        let Err(error) = self.attempt(bytes, Some(segment)) else { return };
        match error.raw_os_error() {
            // The device on the way does no checksums (net/ipv4/udp.c, udp_send_skb).
            Some(libc::EIO) => {
                self.shared.switches.set(Offload::UdpGso, State::Refused);
                self.send_singly(bytes, datagram_bytes);
            }
            Some(libc::EINVAL) => self.send_halves(bytes, datagram_bytes),
            _ => self.failed(&error, bytes.len().div_ceil(datagram_bytes)),
        }
    }

    fn send_halves(&self, bytes: &[u8], datagram_bytes: usize) {
        self.worker.transmit.fall_back(Fallback::Halved);
        let half = bytes.len().div_ceil(datagram_bytes).div_ceil(2);
        let (first, second) = bytes.split_at(half * datagram_bytes);
        self.send(first, datagram_bytes);
        self.send(second, datagram_bytes);
    }

    fn send_singly(&self, bytes: &[u8], datagram_bytes: usize) {
        if bytes.len() > datagram_bytes {
            self.worker.transmit.fall_back(Fallback::SentSingly);
        }
        for datagram in bytes.chunks(datagram_bytes) {
            if let Err(error) = self.attempt(datagram, None) {
                self.failed(&error, 1);
            }
        }
    }

    /// Sends, and again while a queue on the way is full or an error of an earlier datagram is told.
    fn attempt(&self, bytes: &[u8], datagram_bytes: Option<u16>) -> io::Result<()> {
        let Self { worker, peer, .. } = self;
        for _ in 0..RETRIES_MAX {
            let result = worker.socket.send(&peer.target, peer.source, bytes, datagram_bytes);
            match result.as_ref().err().and_then(io::Error::raw_os_error) {
                Some(libc::ENOBUFS | libc::EAGAIN) => std::thread::yield_now(),
                Some(libc::ECONNREFUSED | libc::EINTR) => {}
                _ => return result,
            }
            self.worker.transmit.fall_back(Fallback::Retried);
        }
        Err(io::Error::from_raw_os_error(libc::ENOBUFS))
    }

    fn failed(&self, error: &io::Error, datagrams: usize) {
        if error.raw_os_error() != Some(libc::EMSGSIZE) {
            return self.worker.transmit.drop_many(DropReason::SendFailed, datagrams);
        }
        self.worker.transmit.drop_many(DropReason::TooLarge, datagrams);
        if !self.peer.reported_size.swap(true, Relaxed) {
            self.shared.tell(Event::TooLarge { host_id: self.peer.host_id }, &self.worker.transmit);
        }
    }
}
