//! The manager's side, where there is no systemd.

use std::ffi::CString;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::ptr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::back_off::BackOff;
use crate::child::Program;
use crate::datagram::{self, Datagram};
use crate::wish::Wish;
use crate::{DESCRIPTORS_MAX, check, client};

/// Parked descriptors have numbers from here on, above all that a program is given.
const NUMBER_MIN: libc::c_int = 64;
/// A program that does not end by then is killed.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// Exit code of `sysexits.h` for a wrong use of a command: it will be wrong the next time too.
const EXIT_USAGE: u8 = 64;

const SIGNALS: [libc::c_int; 4] = [libc::SIGCHLD, libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

/// Runs one program, keeps what it parks, and starts it again.
pub struct Keeper {
    program: Program,
    signals: OwnedFd,
    notify: UnixDatagram,
    parked: Vec<(String, OwnedFd)>,
    child: Option<Child>,
    back_off: BackOff,
    /// When the program is started again.
    start_at: Option<Instant>,
    is_ending: bool,
}

struct Child {
    pid: libc::pid_t,
    since: Instant,
    /// It was asked to end, and is killed then.
    kill_at: Option<Instant>,
}

impl Keeper {
    /// `words` are the program and its arguments. The process must have no other thread.
    pub fn new(words: Vec<CString>) -> io::Result<Self> {
        let (notify, name) = client::listen()?;
        // What it keeps may hold keys: nobody but root looks into this process.
        // SAFETY: takes numbers.
        check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) })?;
        Ok(Self {
            program: Program::new(words, &name)?,
            signals: open_signals()?,
            notify,
            parked: Vec::new(),
            child: None,
            back_off: BackOff::default(),
            start_at: Some(Instant::now()),
            is_ending: false,
        })
    }

    /// Runs the program until somebody ends it, and tells with which exit code to end.
    pub fn run(mut self) -> io::Result<u8> {
        loop {
            self.do_what_is_due()?;
            self.wait()?;
            self.hear_program();
            while let Some(signal) = self.next_signal()? {
                match signal {
                    libc::SIGCHLD => {}
                    libc::SIGHUP => self.ask_to_end(libc::SIGTERM),
                    _ => {
                        self.is_ending = true;
                        self.ask_to_end(libc::SIGINT);
                    }
                }
            }
            if let Some(code) = self.reap() {
                return Ok(code);
            }
        }
    }

    fn do_what_is_due(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.start_at.is_some_and(|at| at <= now) {
            let pid = self.program.start(&self.parked)?;
            self.start_at = None;
            self.child = Some(Child { pid, since: now, kill_at: None });
        }
        if let Some(child) = &mut self.child
            && child.kill_at.is_some_and(|at| at <= now)
        {
            child.kill_at = None;
            log("warn", "the program did not end and is killed");
            signal(child.pid, libc::SIGKILL);
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let kill_at = self.child.as_ref().and_then(|child| child.kill_at);
        let due = self.start_at.into_iter().chain(kill_at).min();
        let patience = due.map_or(-1, |at| {
            let left = at.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
            libc::c_int::try_from(left).unwrap_or(libc::c_int::MAX)
        });
        let poll = |fd: i32| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut polls = [poll(self.signals.as_raw_fd()), poll(self.notify.as_raw_fd())];
        // SAFETY: the pointer is to as many rows as are told.
        match check(unsafe { libc::poll(polls.as_mut_ptr(), 2, patience) }) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends a signal to the program, if it runs; it will end by it, sooner or later.
    fn ask_to_end(&mut self, how: libc::c_int) {
        if let Some(child) = &mut self.child {
            child.kill_at = Some(Instant::now() + END_PATIENCE);
            signal(child.pid, how);
        }
    }

    fn next_signal(&self) -> io::Result<Option<libc::c_int>> {
        // SAFETY: all-zero is a valid signalfd_siginfo.
        let mut info: libc::signalfd_siginfo = unsafe { zeroed() };
        let length = size_of_val(&info);
        // SAFETY: the pointer is to memory of that length.
        let read = unsafe { libc::read(self.signals.as_raw_fd(), (&raw mut info).cast(), length) };
        if read >= 0 {
            return Ok(Some(info.ssi_signo.cast_signed()));
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        }
    }

    /// Takes note of processes that ended; the exit code where that is the end of all. As the first process of
    /// a container this one is the parent of whatever lost its own.
    fn reap(&mut self) -> Option<u8> {
        loop {
            let mut status = 0;
            // SAFETY: the pointer is to an int that lives during the call.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                let is_over = self.is_ending && self.child.is_none();
                return is_over.then_some(0);
            }
            let Some(child) = self.child.take_if(|child| child.pid == pid) else { continue };
            // What it parked last is in the socket still.
            self.hear(pid);
            if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == EXIT_USAGE.into() {
                return Some(EXIT_USAGE);
            }
            if self.is_ending {
                continue;
            }
            let was_asked = child.kill_at.is_some();
            let wait =
                if was_asked { Duration::ZERO } else { self.back_off.after(child.since.elapsed()) };
            log("info", "the program ended and is started again");
            self.start_at = Some(Instant::now() + wait);
        }
    }

    fn hear_program(&mut self) {
        self.hear(self.child.as_ref().map_or(0, |child| child.pid));
    }

    /// Does what this process asks for; others are not heard.
    fn hear(&mut self, pid: libc::pid_t) {
        loop {
            match datagram::receive(self.notify.as_fd()) {
                Ok(datagram) if datagram.pid == pid => self.handle(datagram),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn handle(&mut self, datagram: Datagram) {
        match Wish::parse(&datagram.text) {
            Some(Wish::Forget(name)) => self.parked.retain(|(parked, _)| *parked != name),
            Some(Wish::Keep(name)) => {
                for descriptor in datagram.descriptors {
                    if self.parked.len() == DESCRIPTORS_MAX {
                        log("warn", "no more descriptors can be kept");
                    } else if let Ok(descriptor) = move_up(&descriptor) {
                        self.parked.push((name.clone(), descriptor));
                    }
                }
            }
            None => {}
        }
    }
}

/// Waits for signals by a descriptor instead of by handlers.
fn open_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by the calls, and lives during them.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        check(libc::sigemptyset(&raw mut set))?;
        for signal in SIGNALS {
            check(libc::sigaddset(&raw mut set, signal))?;
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()))?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        Ok(OwnedFd::from_raw_fd(check(libc::signalfd(-1, &raw const set, flags))?))
    }
}

fn move_up(descriptor: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: takes a descriptor that is open; the new one is nobody else's.
    unsafe {
        let fd = libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, NUMBER_MIN);
        Ok(OwnedFd::from_raw_fd(check(fd)?))
    }
}

fn signal(pid: libc::pid_t, signal: libc::c_int) {
    // It is a child that was not waited for, so the number is its own.
    // SAFETY: takes numbers.
    unsafe { libc::kill(pid, signal) };
}

fn log(level: &str, message: &str) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    println!(
        "{{\"level\":\"{level}\",\"time\":{},\"service\":\"weft-keep\",\"msg\":\"{message}\"}}",
        since.as_millis()
    );
}
