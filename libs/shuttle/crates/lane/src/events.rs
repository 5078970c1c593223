//! What packet threads tell the control thread.
//!
//! There are three queues, because anybody can send a handshake message: however many strangers send,
//! what is authentic, and frames that wait for a session, always find room, and what comes from where
//! a peer is does not wait behind what comes from elsewhere. They are taken in turn, so that none waits
//! for more than as many of each other one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_seal::DropReason;

/// Events that may wait, without handshakes: four each of a thousand hosts that all begin at once.
/// Messages of peers have as many bytes as their underlay carries, 6 MiB where that is 1,500.
pub const EVENTS_MAX: usize = 4096;
/// Handshake messages from addresses of peers that may wait, of at most 256 bytes: 256 KiB. More of
/// them wait with those of strangers: who knows where a peer is can forge its address.
pub const KNOWN_HANDSHAKES_MAX: usize = 1024;
/// Handshake messages that may wait else: 1 MiB.
pub const HANDSHAKES_MAX: usize = 4096;

/// One thing that happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A message of type 1 to 3. Nothing of it is authentic.
    Handshake {
        /// Where it came from.
        source: SocketAddr,
        /// Whether a peer is reached there.
        known: bool,
        /// The whole message.
        bytes: Vec<u8>,
    },
    /// A message between hosts: an opened payload whose Geneve header has the O bit.
    Control {
        /// The peer.
        host_id: u32,
        /// The session by which it came.
        index: u32,
        /// Where it came from.
        source: SocketAddr,
        /// Geneve header and body.
        bytes: Vec<u8>,
    },
    /// Frames wait for a session with this host.
    Wanted {
        /// The host.
        host_id: u32,
    },
    /// An authentic message of a session came for the first time.
    Confirmed {
        /// The peer.
        host_id: u32,
        /// The session.
        index: u32,
        /// Where it came from.
        source: SocketAddr,
    },
    /// An authentic message came from another address than the one in the table.
    Moved {
        /// The peer.
        host_id: u32,
        /// The session by which it came.
        index: u32,
        /// The new address.
        source: SocketAddr,
    },
    /// The kernel knows that datagrams of the length in the table do not fit the way to this host. Told
    /// once for each entry of the table.
    TooLarge {
        /// The peer.
        host_id: u32,
    },
}

/// The end of the packet threads. Once it is gone, and everything was taken, there are no more events.
#[derive(Debug)]
pub(crate) struct Teller(Arc<Queues>);

/// The end of the control thread.
#[derive(Debug)]
pub struct Events(Arc<Queues>);

/// Why there is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEvent {
    /// None came in time.
    Yet,
    /// The packet threads are gone.
    Ever,
}

#[derive(Debug, Default)]
struct Queues {
    waiting: Mutex<Waiting>,
    arrival: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    queues: [VecDeque<Event>; QUEUES],
    /// Whose turn it is.
    turn: usize,
    /// Whether the control thread sleeps.
    is_awaited: bool,
    is_over: bool,
}

/// What is authentic, or of this host's own kernel.
const OWN: usize = 0;
/// Handshakes from where a peer is.
const KNOWN: usize = 1;
const STRANGERS: usize = 2;
const QUEUES: usize = 3;
const LIMITS: [usize; QUEUES] = [EVENTS_MAX, KNOWN_HANDSHAKES_MAX, HANDSHAKES_MAX];

/// Both ends of new queues.
pub(crate) fn queues() -> (Teller, Events) {
    let queues = Arc::new(Queues::default());
    (Teller(Arc::clone(&queues)), Events(queues))
}

impl Queues {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the control thread only where it sleeps: that is a call of the kernel.
    fn unlock_and_wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let is_awaited = std::mem::take(&mut waiting.is_awaited);
        drop(waiting);
        if is_awaited {
            self.arrival.notify_one();
        }
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Event> {
        let turns = (0..QUEUES).map(|step| (self.turn + step) % QUEUES);
        let queue = turns.into_iter().find(|queue| !self.queues[*queue].is_empty())?;
        self.turn = (queue + 1) % QUEUES;
        self.queues[queue].pop_front()
    }

    /// Where an event may wait, or why it may not.
    fn queue_for(&self, event: &Event) -> Result<usize, DropReason> {
        let has_room = |queue: &usize| self.queues[*queue].len() < LIMITS[*queue];
        let (queues, reason): (&[usize], _) = match event {
            Event::Handshake { known: true, .. } => {
                (&[KNOWN, STRANGERS], DropReason::HandshakesFull)
            }
            Event::Handshake { .. } => (&[STRANGERS], DropReason::HandshakesFull),
            _ => (&[OWN], DropReason::ControlFull),
        };
        queues.iter().copied().find(has_room).ok_or(reason)
    }
}

impl Teller {
    /// Tells it, or why there is no room for it.
    pub(crate) fn tell(&self, event: Event) -> Result<(), DropReason> {
        let mut waiting = self.0.lock();
        let queue = waiting.queue_for(&event)?;
        waiting.queues[queue].push_back(event);
        self.0.unlock_and_wake(waiting);
        Ok(())
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.is_over = true;
        self.0.unlock_and_wake(waiting);
    }
}

impl Events {
    /// The next event; waits for one no longer than `patience`.
    pub fn next_within(&self, patience: Duration) -> Result<Event, NoEvent> {
        let deadline = Instant::now() + patience;
        let mut waiting = self.0.lock();
        loop {
            if let Some(event) = waiting.take() {
                return Ok(event);
            }
            if waiting.is_over {
                return Err(NoEvent::Ever);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NoEvent::Yet);
            }
            waiting.is_awaited = true;
            (waiting, _) =
                self.0.arrival.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner);
            waiting.is_awaited = false;
        }
    }

    /// The events that are there, one after the other.
    pub fn present(&self) -> impl Iterator<Item = Event> + '_ {
        std::iter::from_fn(|| self.0.lock().take())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn handshake(known: bool) -> Event {
        let source = "192.0.2.1:9".parse().expect("an address");
        Event::Handshake { source, known, bytes: vec![1] }
    }

    #[test]
    fn strangers_leave_room_for_the_others_who_wait_no_longer_than_they() {
        let (teller, events) = queues();
        for _ in 0..HANDSHAKES_MAX {
            assert_eq!(teller.tell(handshake(false)), Ok(()));
        }
        assert_eq!(teller.tell(handshake(false)), Err(DropReason::HandshakesFull));
        let wanted = |host_id| Event::Wanted { host_id };
        for host_id in 0..2 {
            assert_eq!(teller.tell(handshake(true)), Ok(()));
            assert_eq!(teller.tell(wanted(host_id)), Ok(()));
        }
        let first: Vec<Event> = events.present().take(6).collect();
        let round = |host_id| [wanted(host_id), handshake(true), handshake(false)];
        assert_eq!(first, round(0).into_iter().chain(round(1)).collect::<Vec<_>>());
        assert_eq!(events.present().count(), HANDSHAKES_MAX - 2);
    }

    #[test]
    fn who_forges_the_addresses_of_peers_takes_no_more_room_than_a_stranger() {
        let (teller, events) = queues();
        for _ in 0..KNOWN_HANDSHAKES_MAX + HANDSHAKES_MAX {
            assert_eq!(teller.tell(handshake(true)), Ok(()));
        }
        assert_eq!(teller.tell(handshake(true)), Err(DropReason::HandshakesFull));
        assert_eq!(teller.tell(Event::Wanted { host_id: 1 }), Ok(()));
        assert_eq!(events.present().count(), KNOWN_HANDSHAKES_MAX + HANDSHAKES_MAX + 1);
    }

    #[test]
    fn what_is_authentic_has_a_limit_of_its_own() {
        let (teller, events) = queues();
        for host_id in 0..u32::try_from(EVENTS_MAX).expect("a small number") {
            assert_eq!(teller.tell(Event::Wanted { host_id }), Ok(()));
        }
        assert_eq!(teller.tell(Event::Wanted { host_id: 1 }), Err(DropReason::ControlFull));
        assert_eq!(teller.tell(handshake(false)), Ok(()));
        assert_eq!(events.present().count(), EVENTS_MAX + 1);
    }

    #[test]
    fn who_waits_is_woken_and_told_of_the_end_after_everything_else() {
        let (teller, events) = queues();
        assert_eq!(events.next_within(Duration::ZERO), Err(NoEvent::Yet));
        let waits = thread::spawn(move || {
            let first = events.next_within(SOON);
            (first, events.next_within(SOON), events.next_within(SOON))
        });
        teller.tell(handshake(false)).expect("room");
        teller.tell(Event::Wanted { host_id: 7 }).expect("room");
        drop(teller);
        let (first, second, end) = waits.join().expect("no panic");
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(end, Err(NoEvent::Ever));
    }
}
