//! The packet threads and what the control thread does with them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use weft_seal::DropReason;

use crate::address::RawAddress;
use crate::counters::{Fallback, LaneCounters};
use crate::events::{Event, Events, Teller, queues};
use crate::socket::UdpSocket;
use crate::switches::{Offload, State, Switches};
use crate::table::Table;
use crate::tap::Tap;
use crate::waiting::Waiting;
use crate::{receive, transmit};

/// Longest handshake message: an initiation has 148 bytes.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = 256;
/// Longest message between hosts: a probe of the largest underlay MTU in use.
pub(crate) const CONTROL_BYTES_MAX: usize = 9216;
/// How often a thread that waits in the kernel is woken to see that it shall stop. Packets wait for
/// the next process meanwhile.
const STOP_INTERVAL: Duration = Duration::from_micros(500);

/// A queue of the TAP and the socket to which it is joined, by one thread each way.
pub(crate) struct Worker {
    pub(crate) tap: Tap,
    pub(crate) socket: UdpSocket,
    pub(crate) transmit: LaneCounters,
    pub(crate) receive: LaneCounters,
}

/// What all threads see.
pub(crate) struct Shared {
    pub(crate) table: ArcSwap<Table>,
    pub(crate) switches: Switches,
    pub(crate) stop: AtomicBool,
    waiting: Mutex<Waiting>,
    teller: Teller,
}

impl Shared {
    /// Frames without a session; only they meet this lock.
    pub(crate) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was room for the event.
    pub(crate) fn tell(&self, event: Event, counters: &LaneCounters) -> bool {
        let told = self.teller.tell(event);
        if let Err(reason) = told {
            counters.drop(reason);
        }
        told.is_ok()
    }
}

type Run = fn(&Shared, &Worker) -> io::Result<()>;

/// One thread each way between a TAP and a socket.
pub struct Lanes {
    shared: Arc<Shared>,
    worker: Arc<Worker>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Lanes {
    /// Starts the threads with an empty table. The events are what they tell.
    pub fn start(tap: Tap, socket: UdpSocket) -> io::Result<(Self, Events)> {
        let (mut lanes, events) = Self::prepare(tap, socket);
        lanes.run()?;
        Ok((lanes, events))
    }

    /// Has an empty table, and no threads yet: until [`Self::run`] packets wait in the kernel.
    pub fn prepare(tap: Tap, socket: UdpSocket) -> (Self, Events) {
        let (teller, events) = queues();
        let table = ArcSwap::from_pointee(Table::new(socket.family()));
        let shared = Arc::new(Shared {
            table,
            switches: Switches::default(),
            stop: AtomicBool::new(false),
            waiting: Mutex::default(),
            teller,
        });
        let (transmit, receive) = (LaneCounters::default(), LaneCounters::default());
        let worker = Arc::new(Worker { tap, socket, transmit, receive });
        let lanes = Self { shared, worker, threads: Vec::new() };
        lanes.set_offload(Offload::UdpGro, State::On);
        (lanes, events)
    }

    /// Starts the threads.
    pub fn run(&mut self) -> io::Result<()> {
        allow_wake_up()?;
        for (name, run) in
            [("lane-transmit", transmit::run as Run), ("lane-receive", receive::run as Run)]
        {
            let (shared, worker) = (Arc::clone(&self.shared), Arc::clone(&self.worker));
            let thread = thread::Builder::new().name(name.to_owned());
            self.threads.push(thread.spawn(move || run(&shared, &worker))?);
        }
        Ok(())
    }

    /// Changes the table. Packet threads see all of it or nothing, with their next packets.
    pub fn update(&mut self, change: impl FnOnce(&mut Table)) {
        let mut table = Table::clone(&self.shared.table.load());
        change(&mut table);
        self.shared.table.store(Arc::new(table));
    }

    /// The table as it is.
    pub fn table(&self) -> Arc<Table> {
        self.shared.table.load_full()
    }

    /// Sends what waits for a host, once the table has a session with it.
    pub fn flush(&self, host_id: u32) {
        transmit::flush(&self.shared, &self.worker, host_id);
    }

    /// Drops what waits for a host, and tells how many frames it was.
    pub fn discard(&self, host_id: u32) -> usize {
        self.shared.waiting().take(host_id).len()
    }

    /// The hosts for which frames wait.
    pub fn waiting_hosts(&self) -> Vec<u32> {
        self.shared.waiting().hosts()
    }

    /// Sends one datagram as it is: a handshake message, or one that the caller sealed.
    pub fn send(
        &self,
        target: SocketAddr,
        source: Option<IpAddr>,
        datagram: &[u8],
    ) -> io::Result<()> {
        let target = RawAddress::new(target, self.worker.socket.family())
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        self.worker.socket.send(&target, source, datagram, None)
    }

    /// Switches an offload. Where the kernel does not have it, it becomes [`State::Refused`].
    pub fn set_offload(&self, offload: Offload, state: State) {
        let refused =
            offload == Offload::UdpGro && self.worker.socket.set_gro(state == State::On).is_err();
        self.shared.switches.set(offload, if refused { State::Refused } else { state });
    }

    /// The state of an offload.
    pub fn offload(&self, offload: Offload) -> State {
        self.shared.switches.get(offload)
    }

    /// Frames and datagrams dropped for a reason, in both directions.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.worker.transmit.dropped(reason) + self.worker.receive.dropped(reason)
    }

    /// How often something went another way than the fastest.
    pub fn fell_back(&self, fallback: Fallback) -> u64 {
        self.worker.transmit.fell_back(fallback) + self.worker.receive.fell_back(fallback)
    }

    /// Whether both threads run. One ends by itself where its device is gone.
    pub fn is_running(&self) -> bool {
        !self.threads.is_empty() && !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops the threads and returns the first error that one of them ended with.
    pub fn stop(self) -> io::Result<()> {
        self.shared.stop.store(true, Relaxed);
        while !self.threads.iter().all(JoinHandle::is_finished) {
            for thread in self.threads.iter().filter(|thread| !thread.is_finished()) {
                // SAFETY: the thread was not joined, so its id is still its own.
                unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGURG) };
            }
            thread::sleep(STOP_INTERVAL);
        }
        let mut outcome = Ok(());
        for thread in self.threads {
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("panicked")));
            outcome = outcome.and(ended);
        }
        outcome
    }
}

/// Lets a signal end a wait in the kernel. SIGURG is ignored by default, so that nobody else is hurt;
/// a handler, even an empty one, makes the call return.
fn allow_wake_up() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all-zero is a valid sigaction, without flags: no call is restarted.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the action lives during the call, and its handler does nothing.
    let result = unsafe { libc::sigaction(libc::SIGURG, &raw const action, std::ptr::null_mut()) };
    crate::sys::check(result).map(drop)
}
