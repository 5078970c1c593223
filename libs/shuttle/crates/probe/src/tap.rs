//! Stands where a hypervisor would: frames of a TAP here are carried to a TAP in another namespace, whose kernel is the "guest".

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::thread;

use serde_json::json;

use crate::args::Args;
use crate::{Outcome, print_ready, sys};

/// A super-packet of 64 KiB with its Ethernet and vnet headers.
const FRAME_MAX_BYTES: usize = 66_000;
const TICK_MS: i32 = 50;

/// What one direction did.
#[derive(Default)]
struct Carried {
    frames: u64,
    refused: u64,
}

/// `tap-bridge`. Options: `--outer` (a TAP of this namespace), `--netns`, `--inner` (the TAP to make there), `--vnet-hdr`.
pub(crate) fn bridge(args: &Args) -> Outcome {
    let vnet_header = args.switch("vnet-hdr");
    let outer = sys::open_tap(&args.required::<String>("outer")?, vnet_header)?;
    sys::enter_netns(&args.required::<String>("netns")?)?;
    let inner = sys::open_tap(&args.required::<String>("inner")?, vnet_header)?;
    print_ready();
    let (out, into) = thread::scope(|scope| {
        let out = scope.spawn(|| carry(&inner, &outer));
        let into = carry(&outer, &inner);
        (out.join().expect("a direction does not panic"), into)
    });
    let (out, into) = (out?, into?);
    Ok(json!({
        "out_frames": out.frames, "out_refused": out.refused,
        "in_frames": into.frames, "in_refused": into.refused,
    }))
}

fn carry(from: &OwnedFd, to: &OwnedFd) -> io::Result<Carried> {
    let mut source = File::from(from.try_clone()?);
    let mut target = File::from(to.try_clone()?);
    let mut frame = vec![0_u8; FRAME_MAX_BYTES];
    let mut carried = Carried::default();
    while !sys::is_stopped() {
        if !sys::wait_readable(from, TICK_MS) {
            continue;
        }
        let length = match source.read(&mut frame) {
            Ok(length) => length,
            // The device is down (EIO) or gone for the moment: wait for it as a hypervisor does.
            Err(error) if sys::is_pause(&error) || error.raw_os_error() == Some(libc::EIO) => {
                thread::sleep(std::time::Duration::from_millis(1));
                continue;
            }
            Err(error) => return Err(error),
        };
        // A TAP takes a frame whole or not at all.
        match target.write(&frame[..length]) {
            Ok(written) if written == length => carried.frames += 1,
            Ok(_) | Err(_) => carried.refused += 1,
        }
    }
    Ok(carried)
}
