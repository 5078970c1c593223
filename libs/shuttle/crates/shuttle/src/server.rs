//! The unix socket, and who is let in.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;

use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt as _};

use crate::log;

/// The forwarder connects; others are told apart by what the kernel says of them, not by the mode.
const SOCKET_MODE: u32 = 0o666;

/// Listens in place of an earlier process, and gives the connections of one user. All others are
/// closed before a byte is read.
pub(crate) fn listen(
    path: &Path,
    admitted_uid: u32,
) -> io::Result<impl Stream<Item = io::Result<UnixStream>> + use<>> {
    if StdUnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another shuttle answers there"));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(UnixListenerStream::new(listener).filter(move |connection| {
        let Ok(connection) = connection else { return true };
        let uid = connection.peer_cred().map(|peer| peer.uid());
        let is_admitted = uid.as_ref().is_ok_and(|uid| *uid == admitted_uid);
        if !is_admitted {
            log::warn(
                "a stranger was turned away",
                json!({ "uid": uid.ok(), "admit_uid": admitted_uid }),
            );
        }
        is_admitted
    }))
}
