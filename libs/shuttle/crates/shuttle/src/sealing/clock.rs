//! The clocks that the engine is told.

use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime};

use weft_tunnel::Now;

/// Both of them now. `CLOCK_BOOTTIME` goes on while the machine sleeps, as the peers' clocks do.
pub(super) fn now() -> Now {
    Now { monotonic: boot_time(), unix: unix_time() }
}

/// Since 1970.
pub(super) fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn boot_time() -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is to a timespec, for which all-zero is a valid value too.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_BOOTTIME, time.as_mut_ptr());
        time.assume_init()
    };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
