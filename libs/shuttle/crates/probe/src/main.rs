//! Traffic with exact accounting: see the README for the modes.

mod args;
mod frames;
mod ping;
mod sys;
mod tap;
mod tcp;
mod thrown;
mod udp;

use std::io::Write as _;
use std::process::ExitCode;

use args::Args;
use serde_json::Value;

/// What a mode ends with: its result, or what went wrong.
type Outcome = Result<Value, Box<dyn std::error::Error>>;

/// `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let mode = words.next().unwrap_or_default();
    let run: fn(&Args) -> Outcome = match mode.as_str() {
        "udp-send" => udp::send,
        "udp-recv" => udp::receive,
        "udp-echo" => udp::echo,
        "tcp-ask" => tcp::ask,
        "tcp-echo" => tcp::echo,
        "ping" => ping::ping,
        "frame-send" => frames::send,
        "sniff" => frames::sniff,
        "record" => thrown::record,
        "throw" => thrown::throw,
        "tap-bridge" => tap::bridge,
        _ => {
            eprintln!("error: unknown mode `{mode}`");
            eprintln!(
                "try: weft-probe udp-send | udp-recv | udp-echo | tcp-ask | tcp-echo | ping | frame-send | sniff | record | throw | tap-bridge"
            );
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let args = match Args::parse(words) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    sys::stop_on_signals();
    match run(&args) {
        Ok(mut result) => {
            result["event"] = "result".into();
            print_line(&result);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {mode}: {error}");
            if error.is::<args::UsageError>() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Tells whoever started this process that sockets and devices are in place.
fn print_ready() {
    print_line(&serde_json::json!({ "event": "ready" }));
}

/// A reader that went away is no reason to fail: the counting is what matters to the exit code.
fn print_line(value: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}
