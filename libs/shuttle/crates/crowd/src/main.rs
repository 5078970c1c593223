//! Many hosts in one process, for one real shuttle: see the README.

mod args;
mod changes;
mod crowd;
mod host;
mod sys;

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use crate::args::Args;
use crate::crowd::Crowd;

/// `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!(
                "try: weft-crowd --keys FILE --shuttle ADDRESS:PORT --shuttle-key HEX --first ADDRESS --port PORT"
            );
            return ExitCode::from(EXIT_USAGE);
        }
    };
    sys::note_signals();
    match Crowd::gather(&args).and_then(Crowd::run) {
        Ok(result) => {
            print_line(&result);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A reader that went away is no reason to fail.
fn print_line(value: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}
