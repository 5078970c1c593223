//! The program as a process.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::ptr;

use crate::{FIRST, check};

/// The program could not be run.
const EXIT_NOT_RUN: libc::c_int = 127;

/// What is run, and what it is told.
pub(crate) struct Program {
    words: Vec<CString>,
    notify_socket: CString,
}

impl Program {
    /// `words` are the program and its arguments.
    pub(crate) fn new(words: Vec<CString>, notify_socket: &str) -> io::Result<Self> {
        Ok(Self { words, notify_socket: CString::new(notify_socket)? })
    }

    /// Starts it with these descriptors, and tells its process id. It is killed when this process ends.
    pub(crate) fn start(&self, parked: &[(String, OwnedFd)]) -> io::Result<libc::pid_t> {
        let names: Vec<&str> = parked.iter().map(|(name, _)| name.as_str()).collect();
        let names = CString::new(names.join(":"))?;
        let count = CString::new(parked.len().to_string())?;
        let descriptors: Vec<RawFd> = parked.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
        let mut words: Vec<*const libc::c_char> =
            self.words.iter().map(|word| word.as_ptr()).collect();
        words.push(ptr::null());
        // SAFETY: takes nothing.
        let parent = unsafe { libc::getpid() };
        // SAFETY: there is one thread, so the child may do whatever the parent may.
        let pid = check(unsafe { libc::fork() })?;
        if pid == 0 {
            let variables = [
                (c"LISTEN_FDNAMES", &*names),
                (c"LISTEN_FDS", &*count),
                (c"NOTIFY_SOCKET", &*self.notify_socket),
            ];
            // SAFETY: this is the child, and the words end with null.
            unsafe { become_program(parent, &descriptors, &variables, &words) }
        }
        Ok(pid)
    }
}

/// # Safety
/// To be called in a child alone; `words` ends with null.
unsafe fn become_program(
    parent: libc::pid_t,
    descriptors: &[RawFd],
    variables: &[(&CStr, &CStr)],
    words: &[*const libc::c_char],
) -> ! {
    // SAFETY: all pointers are to strings and sets that live until the program takes this one's place.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // It may have ended before the line above.
        if libc::getppid() != parent {
            libc::_exit(EXIT_NOT_RUN);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        // They lie above: none is overwritten before it is copied.
        for (target, descriptor) in (FIRST..).zip(descriptors) {
            libc::dup2(*descriptor, target);
        }
        for (name, value) in variables {
            libc::setenv(name.as_ptr(), value.as_ptr(), 1);
        }
        let pid = CString::new(libc::getpid().to_string()).unwrap_or_default();
        libc::setenv(c"LISTEN_PID".as_ptr(), pid.as_ptr(), 1);
        libc::execvp(words[0], words.as_ptr());
        libc::_exit(EXIT_NOT_RUN)
    }
}
