//! The helper as it is started.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use weft_netns::{Client, Error, Family, Refusal};

/// Ended with the test.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn all_mistakes_of_use_are_told_at_once() {
    let output = Command::new(env!("CARGO_BIN_EXE_weft-netns"))
        .args(["--admit-uid", "me", "--what"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["--socket PATH is missing", "\"me\"", "--what"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_is_no_other_network_namespace_is_refused_by_name() {
    // SAFETY: no arguments.
    let uid = unsafe { libc::getuid() };
    let socket = std::env::temp_dir().join(format!("weft-netns-{}.sock", std::process::id()));
    let child = Command::new(env!("CARGO_BIN_EXE_weft-netns"))
        .args([
            "--socket".as_ref(),
            socket.as_os_str(),
            "--admit-uid".as_ref(),
            uid.to_string().as_ref(),
        ])
        .spawn()
        .unwrap();
    let _helper = Helper(child);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        assert!(Instant::now() < deadline, "the helper does not listen");
        sleep(Duration::from_millis(5));
    }
    let client = Client::new(socket.clone());
    let refusal = |path: &str| match client.open_namespace(Path::new(path)) {
        Err(Error::Refused { refusal, .. }) => refusal,
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(refusal("/run/netns/weft-no-such-namespace"), Refusal::NotFound);
    assert_eq!(refusal("/dev/null"), Refusal::NotANamespace);
    assert_eq!(refusal("/proc/self/ns/uts"), Refusal::NotANetworkNamespace);
    assert_eq!(refusal("/proc/self/ns/net"), Refusal::OwnNamespace);
    assert!(matches!(client.open_echo(Path::new(""), Family::V4), Err(Error::BadPath { .. })));
    std::fs::remove_file(socket).unwrap();
}

#[test]
fn sockets_of_another_namespace_are_handed_over() {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: needs root to make a namespace");
        return;
    }
    let socket = std::env::temp_dir().join(format!("weft-netns-open-{}.sock", std::process::id()));
    let child = Command::new(env!("CARGO_BIN_EXE_weft-netns"))
        .args(["--socket".as_ref(), socket.as_os_str(), "--admit-uid".as_ref(), "0".as_ref()])
        .spawn()
        .unwrap();
    let _helper = Helper(child);
    let mut other = Helper(Command::new("unshare").args(["--net", "sleep", "60"]).spawn().unwrap());
    let path = format!("/proc/{}/ns/net", other.0.id());
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() || std::fs::read_link(&path).is_ok_and(|link| link == own) {
        assert!(Instant::now() < deadline && other.0.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(5));
    }
    let client = Client::new(socket.clone());
    let (namespace, _netlink) = client.open_namespace(Path::new(&path)).unwrap();
    let opened = std::fs::read_link(format!("/proc/self/fd/{}", namespace.as_raw_fd())).unwrap();
    assert_eq!(opened, std::fs::read_link(&path).unwrap());
    for family in [Family::V4, Family::V6] {
        client.open_echo(Path::new(&path), family).unwrap();
    }
    std::fs::remove_file(socket).unwrap();
}
