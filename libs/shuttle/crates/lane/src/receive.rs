//! From the socket to the TAP.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::Cache;
use arrayvec::ArrayVec;
use weft_seal::{
    Arrival, DATA_HEADER_BYTES, DATAGRAMS_MAX, DropReason, Emission, Geneve, Message, Sealed,
    TAG_BYTES, join,
};

use crate::address::RawAddress;
use crate::counters::Fallback;
use crate::events::Event;
use crate::lanes::{CONTROL_BYTES_MAX, HANDSHAKE_BYTES_MAX, Shared, Worker};
use crate::socket::{RECEIVE_BYTES, Received};
use crate::switches::{Offload, State};
use crate::table::{Allows, Inbound, Peer, Table};

/// Receives datagrams and writes their frames until it is told to stop or the socket is gone.
pub(crate) fn run(shared: &Shared, worker: &Worker) -> io::Result<()> {
    let mut table = Cache::new(&shared.table);
    let mut buffer = vec![0; RECEIVE_BYTES];
    while !shared.stop.load(Relaxed) {
        match worker.socket.receive(&mut buffer, 0) {
            Ok(received) => {
                let lane = Lane { shared, worker, table: table.load(), source: received.source };
                lane.accept(&mut buffer[..received.bytes], received);
            }
            Err(error) => match error.raw_os_error() {
                // Errors of datagrams that were sent show up here too.
                Some(libc::EINTR | libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH) => {
                }
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

/// One receive: all of it came from one address.
struct Lane<'a> {
    shared: &'a Shared,
    worker: &'a Worker,
    table: &'a Table,
    source: RawAddress,
}

type Messages<'a> = ArrayVec<Sealed<'a>, DATAGRAMS_MAX>;
type Arrivals<'a> = ArrayVec<Arrival<'a>, DATAGRAMS_MAX>;

impl Lane<'_> {
    fn drop(&self, reason: DropReason) {
        self.worker.receive.drop(reason);
    }

    /// Opens runs of messages of one session together.
    fn accept(&self, bytes: &mut [u8], received: Received) {
        if bytes.is_empty() {
            return self.drop(DropReason::MessageUnknown);
        }
        let mut messages = Messages::new();
        let mut index = 0;
        for datagram in bytes.chunks_mut(received.datagram_bytes.max(1)) {
            match Message::parse(datagram) {
                Some(Message::Data(header)) => {
                    if messages.is_full() || header.receiver_index != index {
                        self.open(index, &mut messages);
                        index = header.receiver_index;
                    }
                    let sealed = &mut datagram[DATA_HEADER_BYTES..];
                    messages.push(Sealed::new(header.counter, sealed));
                }
                Some(Message::Handshake) if datagram.len() <= HANDSHAKE_BYTES_MAX => {
                    let (source, known) = (self.source.get(), self.table.is_target(&self.source));
                    self.tell(Event::Handshake { source, known, bytes: datagram.to_vec() });
                }
                // The tail that a peer adds where its kernel spoils equal lengths.
                None if datagram == [0] && self.table.is_target(&self.source) => {}
                _ => self.drop(DropReason::MessageUnknown),
            }
        }
        self.open(index, &mut messages);
    }

    /// Opens the messages and empties the list.
    fn open(&self, index: u32, messages: &mut Messages<'_>) {
        if messages.is_empty() {
            return;
        }
        let inbound = self.table.inbound(index);
        match inbound.and_then(|inbound| Some((inbound, self.table.peer(inbound.host_id)?))) {
            None => {
                self.worker.receive.drop_many(DropReason::IndexUnknown, messages.len());
                messages.clear();
            }
            Some((inbound, peer)) => {
                inbound.session.open_batch(messages);
                self.deliver(inbound, peer, messages);
            }
        }
    }

    fn deliver(&self, inbound: &Inbound, peer: &Arc<Peer>, messages: &mut Messages<'_>) {
        self.note(inbound, peer, messages);
        let mut arrivals = Arrivals::new();
        for message in messages.drain(..) {
            match message.outcome {
                Err(error) => self.drop(error.into()),
                Ok(()) if message.bytes.is_empty() => {}
                Ok(()) => match self.arrival(inbound, peer, message.bytes) {
                    Ok(Some(arrival)) => arrivals.push(arrival),
                    Ok(None) => {}
                    Err(reason) => self.drop(reason),
                },
            }
        }
        let whole = self.shared.switches.is_on(Offload::TapGso);
        join(peer.host_id, &arrivals, whole, |emission| self.write(emission));
    }

    /// Counts what is authentic, and tells what is new about the peer before its messages are.
    fn note(&self, inbound: &Inbound, peer: &Peer, messages: &Messages<'_>) {
        let (mut datagrams, mut payloads, mut bytes) = (0, 0, 0);
        for message in messages.iter().filter(|message| message.outcome.is_ok()) {
            datagrams += 1;
            payloads += u64::from(!message.bytes.is_empty() && !Geneve::is_control(message.bytes));
            bytes += DATA_HEADER_BYTES + message.bytes.len() + TAG_BYTES;
        }
        if datagrams > 0 {
            let received = &peer.marks.traffic.received;
            received.datagrams.add(datagrams);
            received.payloads.add(payloads);
            received.bytes.add(bytes as u64);
            self.note_source(inbound, peer);
        }
    }

    /// What the payload is, where this peer may send it; `None` for a message to the control thread.
    fn arrival<'p>(
        &self,
        inbound: &Inbound,
        peer: &Peer,
        payload: &'p [u8],
    ) -> Result<Option<Arrival<'p>>, DropReason> {
        let networks = match &peer.allows {
            Allows::Ip { vni, macs } => {
                let ip = matches!(payload[0] >> 4, 4 | 6);
                return if ip {
                    Arrival::ip(*vni, *macs, payload).map(Some)
                } else {
                    Err(DropReason::KindRefused)
                };
            }
            Allows::Networks(networks) => networks,
        };
        if payload[0] >> 4 > 3 {
            return Err(DropReason::KindRefused);
        }
        let (geneve, frame) = Geneve::parse(payload)?;
        if geneve.control && payload.len() > CONTROL_BYTES_MAX {
            return Err(DropReason::FrameMalformed);
        }
        if geneve.control {
            let (host_id, index) = (inbound.host_id, inbound.session.local_index());
            let source = self.source.get();
            self.tell(Event::Control { host_id, index, source, bytes: payload.to_vec() });
            return Ok(None);
        }
        if networks.binary_search(&geneve.vni).is_err() {
            return Err(DropReason::NetworkRefused);
        }
        Arrival::ethernet(&geneve, frame).map(Some)
    }

    /// Tells of the first use of a session, and of an address that is not the peer's known one.
    fn note_source(&self, inbound: &Inbound, peer: &Peer) {
        let (host_id, index) = (peer.host_id, inbound.session.local_index());
        if !inbound.confirmed.load(Relaxed) {
            let source = self.source.get();
            let event = Event::Confirmed { host_id, index, source };
            inbound.confirmed.store(self.shared.tell(event, &self.worker.receive), Relaxed);
        }
        if self.source != peer.target {
            let mark = &peer.marks.reported_source;
            let mixed = self.source.mixed();
            if mark.load(Relaxed) != mixed {
                let source = self.source.get();
                let event = Event::Moved { host_id, index, source };
                if self.shared.tell(event, &self.worker.receive) {
                    mark.store(mixed, Relaxed);
                }
            }
        }
    }

    fn tell(&self, event: Event) {
        self.shared.tell(event, &self.worker.receive);
    }

    fn write(&self, emission: &Emission<'_>) -> bool {
        let Err(error) = self.worker.tap.write(emission.parts) else { return true };
        if emission.frames > 1 {
            self.worker.receive.fall_back(Fallback::WrittenSingly);
            if error.raw_os_error() == Some(libc::EINVAL) {
                self.shared.switches.set(Offload::TapGso, State::Refused);
            }
            return false;
        }
        self.drop(DropReason::TapRefused);
        true
    }
}
