//! `weft-keep PROGRAM [ARGUMENT]...`: see the crate's documentation.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;

use weft_keep::Keeper;

const USAGE: &str = "\
Runs a program, keeps the descriptors that it parks, and starts it again with them.

Usage: weft-keep PROGRAM [ARGUMENT]...

The program parks by NOTIFY_SOCKET (sd_notify(3): FDSTORE=1, FDNAME) and finds by LISTEN_FDS (sd_listen_fds(3)).

  SIGHUP            an upgrade: the program gets SIGTERM, and what lies at its path then is started
  SIGTERM, SIGINT   the end: the program gets SIGINT

Needs no privilege of its own; the program has those of this process.";

/// Exit codes of `sysexits.h`: wrong usage, and what lacks.
const EXIT_USAGE: u8 = 64;
const EXIT_UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    match words.first().and_then(|word| word.to_str()) {
        Some("--help" | "-h") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(word) if !word.starts_with('-') => {}
        _ => {
            eprintln!("weft-keep: the program to run is missing\n\n{USAGE}");
            return ExitCode::from(EXIT_USAGE);
        }
    }
    let words = words.into_iter().filter_map(|word| CString::new(word.into_vec()).ok()).collect();
    match Keeper::new(words).and_then(Keeper::run) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("weft-keep: {error}");
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}
