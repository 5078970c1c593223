//! What packet threads tell the control thread.
//!
//! There are two queues, because anybody can send a handshake message: however many strangers send,
//! what is authentic, and frames that wait for a session, always find room. Where both have waited
//! they are taken in turn, so that neither waits for more than as many of the other.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_seal::DropReason;

/// Events that may wait, without handshakes: four each of a thousand hosts that all begin at once.
/// Messages of peers have as many bytes as their underlay carries, 6 MiB where that is 1,500.
pub const EVENTS_MAX: usize = 4096;
/// Handshake messages that may wait, of at most 256 bytes: 1 MiB.
pub const HANDSHAKES_MAX: usize = 4096;

/// One thing that happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A message of type 1 to 3. Nothing of it is authentic.
    Handshake {
        /// Where it came from.
        source: SocketAddr,
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
    /// What is authentic, or of this host's own kernel.
    own: VecDeque<Event>,
    handshakes: VecDeque<Event>,
    /// Whose turn it is where both have something.
    is_turn_of_handshakes: bool,
    /// Whether the control thread sleeps.
    is_awaited: bool,
    is_over: bool,
}

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
        let (first, second) = if self.is_turn_of_handshakes {
            (&mut self.handshakes, &mut self.own)
        } else {
            (&mut self.own, &mut self.handshakes)
        };
        let event = first.pop_front().or_else(|| second.pop_front())?;
        self.is_turn_of_handshakes = !matches!(event, Event::Handshake { .. });
        Some(event)
    }
}

impl Teller {
    /// Tells it, or why there is no room for it.
    pub(crate) fn tell(&self, event: Event) -> Result<(), DropReason> {
        let mut waiting = self.0.lock();
        let (queue, limit, reason) = match event {
            Event::Handshake { .. } => {
                (&mut waiting.handshakes, HANDSHAKES_MAX, DropReason::HandshakesFull)
            }
            _ => (&mut waiting.own, EVENTS_MAX, DropReason::ControlFull),
        };
        if queue.len() >= limit {
            return Err(reason);
        }
        queue.push_back(event);
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

    fn handshake() -> Event {
        Event::Handshake { source: "192.0.2.1:9".parse().expect("an address"), bytes: vec![1] }
    }

    #[test]
    fn strangers_leave_room_for_what_is_authentic_and_wait_no_longer_than_it() {
        let (teller, events) = queues();
        for _ in 0..HANDSHAKES_MAX {
            assert_eq!(teller.tell(handshake()), Ok(()));
        }
        assert_eq!(teller.tell(handshake()), Err(DropReason::HandshakesFull));
        for host_id in 0..3 {
            assert_eq!(teller.tell(Event::Wanted { host_id }), Ok(()));
        }
        let first: Vec<Event> = events.present().take(6).collect();
        let wanted = |host_id| Event::Wanted { host_id };
        let alternating = [wanted(0), handshake(), wanted(1), handshake(), wanted(2), handshake()];
        assert_eq!(first, alternating);
        assert_eq!(events.present().count(), HANDSHAKES_MAX - 3);
    }

    #[test]
    fn what_is_authentic_has_a_limit_of_its_own() {
        let (teller, events) = queues();
        for host_id in 0..u32::try_from(EVENTS_MAX).expect("a small number") {
            assert_eq!(teller.tell(Event::Wanted { host_id }), Ok(()));
        }
        assert_eq!(teller.tell(Event::Wanted { host_id: 1 }), Err(DropReason::ControlFull));
        assert_eq!(teller.tell(handshake()), Ok(()));
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
        teller.tell(handshake()).expect("room");
        teller.tell(Event::Wanted { host_id: 7 }).expect("room");
        drop(teller);
        let (first, second, end) = waits.join().expect("no panic");
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(end, Err(NoEvent::Ever));
    }
}
