//! `weft-netns --socket PATH --admit-uid UID`: see the crate's documentation.

use std::path::PathBuf;
use std::process::ExitCode;

use weft_netns::Server;

const USAGE: &str = "\
Opens sockets inside network namespaces for the shuttle.

Usage: weft-netns [--socket PATH] [--admit-uid UID]

  --socket PATH     where to listen (WEFT_NETNS_SOCKET)
  --admit-uid UID   the only user who is served, the shuttle's (WEFT_NETNS_ADMIT_UID)

Needs CAP_SYS_ADMIN to enter a namespace and CAP_NET_RAW to open echo sockets there, nothing else.";

/// Exit code of `sysexits.h` for a wrong use of the command.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let (socket, uid) = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(mistakes) => {
            eprintln!("weft-netns: {}\n\n{USAGE}", mistakes.join("\nweft-netns: "));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let served = Server::bind(&socket, uid).map_err(|error| error.to_string()).and_then(|server| {
        println!("{{\"level\":\"info\",\"service\":\"weft-netns\",\"msg\":\"ready\",\"admit_uid\":{uid}}}");
        server.serve().map_err(|error| format!("cannot accept: {error}"))
    });
    if let Err(error) = served {
        eprintln!("weft-netns: {error}");
    }
    ExitCode::FAILURE
}

/// The arguments over the environment; `None` when help is wanted, all mistakes at once otherwise.
fn arguments() -> Result<Option<(PathBuf, u32)>, Vec<String>> {
    let mut socket = std::env::var_os("WEFT_NETNS_SOCKET").map(PathBuf::from);
    let mut uid = std::env::var("WEFT_NETNS_ADMIT_UID").ok();
    let mut mistakes = Vec::new();
    let mut given = std::env::args_os().skip(1);
    while let Some(name) = given.next() {
        match name.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--socket") => socket = given.next().map(PathBuf::from),
            Some("--admit-uid") => {
                uid = given.next().map(|value| value.to_string_lossy().into_owned());
            }
            _ => mistakes.push(format!("unknown argument {}", name.display())),
        }
    }
    if socket.is_none() {
        mistakes.push("--socket PATH is missing".to_owned());
    }
    let uid = match uid.map(|text| text.parse::<u32>().map_err(|_| text)) {
        Some(Ok(uid)) => Some(uid),
        Some(Err(text)) => {
            mistakes.push(format!("--admit-uid is a number, not {text:?}"));
            None
        }
        None => {
            mistakes.push("--admit-uid UID is missing".to_owned());
            None
        }
    };
    match (socket, uid) {
        (Some(socket), Some(uid)) if mistakes.is_empty() => Ok(Some((socket, uid))),
        _ => Err(mistakes),
    }
}
