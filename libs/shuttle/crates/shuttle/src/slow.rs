//! The thread that takes first packets from the slow TAP. It never waits for anything but the next
//! packet or deadline, so that a first packet is handed on at once whatever the rest of the process
//! does.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::json;
use weft_engine::SlowFrame;
use weft_io::Tap;

use crate::log;
use crate::plane::Plane;

/// Frames taken before what they lead to is written back.
const BATCH_MAX: usize = 64;
/// The engine sets deadlines only when this thread brings packets, so sleeping longer would be no
/// mistake; this bounds the cost of one.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Buffers and a shallow stack.
const STACK_BYTES: usize = 256 << 10;

/// Starts the thread. The process ends with it: without it first packets would be lost in silence.
pub(crate) fn spawn(plane: Arc<Plane>) -> io::Result<()> {
    thread::Builder::new().name("slow".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        let error = run(&plane);
        log::error("the slow TAP failed", json!({ "error": error.to_string() }));
        std::process::exit(crate::EXIT_DEFECT.into());
    })?;
    Ok(())
}

fn run(plane: &Plane) -> io::Error {
    let mut buffer = vec![0; Tap::FRAME_BYTES_MAX];
    loop {
        if let Err(error) = wait(plane).and_then(|()| serve(plane, &mut buffer)) {
            return error;
        }
    }
}

fn wait(plane: &Plane) -> io::Result<()> {
    let timeout =
        plane.engine().poll_timeout().map(|deadline| deadline.saturating_sub(plane.now()));
    // Rounded up, so that the deadline has passed afterwards.
    let timeout_ms = timeout.unwrap_or(SLEEP_MAX).min(SLEEP_MAX).as_millis() + 1;
    let mut poll =
        libc::pollfd { fd: plane.tap().as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, as said.
    let status =
        unsafe { libc::poll(&raw mut poll, 1, i32::try_from(timeout_ms).unwrap_or(i32::MAX)) };
    match status {
        -1 if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted => {
            Err(io::Error::last_os_error())
        }
        _ => Ok(()),
    }
}

fn serve(plane: &Plane, buffer: &mut [u8]) -> io::Result<()> {
    let mut frames = Vec::new();
    while frames.len() < BATCH_MAX {
        match plane.tap().read(buffer) {
            // What is not of the programs cannot come here: the device has no addresses.
            Ok(length) => frames.extend(SlowFrame::new(&buffer[..length])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut out = Vec::new();
    let has_misses = {
        let mut engine = plane.engine();
        let now = plane.now();
        for frame in frames {
            engine.handle_frame(frame, now, &mut out);
        }
        engine.handle_timeout(now, &mut out);
        engine.has_misses()
    };
    if has_misses {
        plane.misses.notify_one();
    }
    plane.send(out);
    Ok(())
}
