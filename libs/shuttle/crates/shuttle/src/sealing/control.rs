//! The thread between packet threads and engine.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use weft_lane::{Event, Events, NoEvent};

use super::Sealing;
use crate::failure::Failure;

/// How often the counters of packet threads are read while there are sessions: timers of the
/// protocol are ten seconds and more.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Without a session nothing needs to be looked at, but that there is one.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Events that are handled before what they lead to is done.
const EVENTS_PER_TURN_MAX: usize = 256;

/// Ends with the packet threads that give the events.
pub(super) fn spawn(sealing: Weak<Sealing>, events: Events) -> Result<(), Failure> {
    thread::Builder::new()
        .name("seal-control".to_owned())
        .spawn(move || run(&sealing, &events))
        .map(drop)
        .map_err(|error| Failure::internal(format!("cannot start a thread: {error}")))
}

fn run(sealing: &Weak<Sealing>, events: &Events) {
    let mut patience = IDLE_INTERVAL;
    loop {
        let first = match events.next_within(patience) {
            Ok(event) => Some(event),
            Err(NoEvent::Yet) => None,
            Err(NoEvent::Ever) => return,
        };
        let Some(sealing) = sealing.upgrade() else { return };
        patience = turn(&sealing, first, events);
    }
}

/// Handles what is there and what is due, and tells how long nothing else will be.
fn turn(sealing: &Arc<Sealing>, first: Option<Event>, events: &Events) -> Duration {
    let mut core = sealing.core();
    let Some(running) = core.running.as_mut() else { return IDLE_INTERVAL };
    for event in first.into_iter().chain(events.present()).take(EVENTS_PER_TURN_MAX) {
        running.handle(event);
    }
    running.look();
    let patience = running.patience(LOOK_INTERVAL, IDLE_INTERVAL);
    let has_news = std::mem::take(&mut running.has_news);
    sealing.tell_kernel(core);
    if has_news {
        sealing.news.notify_waiters();
    }
    patience
}
