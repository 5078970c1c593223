//! A program below a real `weft-keep`. The program is this test's own executable: started with a role
//! in its environment, the test `program` plays it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use weft_keep::{DESCRIPTORS_MAX, Parked, Store};

const ROLE: &str = "WEFT_KEEP_TEST_ROLE";
const FILE: &str = "WEFT_KEEP_TEST_FILE";

/// What programs say to tests stands behind this.
const SAYS: &str = "says ";

/// What a program of a test does; a test like the others where nobody gave it a role.
#[test]
fn program() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut parked = Parked::take_from_environment();
    let store = Store::from_environment().expect("connects").expect("there is a manager");
    let say = |text: String| println!("\n{SAYS}{} {text}", std::process::id());
    match role.as_str() {
        // Counts its lives in a file without a name.
        "counter" => {
            let mut file = parked.take("lives").map_or_else(new_file, File::from);
            let mut lives = String::new();
            file.rewind().expect("rewinds");
            file.read_to_string(&mut lives).expect("reads");
            file.write_all(b"x").expect("writes");
            if lives.is_empty() {
                store.put("lives", file.as_fd()).expect("parks");
            }
            store.ready().expect("tells");
            say(format!("life {}", lives.len()));
        }
        "hoarder" => {
            let count = (0..100).filter(|n| parked.take(&format!("n{n}")).is_some()).count();
            for n in 0..20 {
                store.put(&format!("n{n}"), new_file().as_fd()).expect("parks");
            }
            say(format!("has {count}"));
        }
        "remover" => {
            let names = ["kept", "gone", "bad:name"].map(|name| parked.take(name).is_some());
            for name in ["kept", "gone", "bad:name"] {
                store.put(name, new_file().as_fd()).expect("parks");
            }
            store.remove("gone").expect("removes");
            say(format!("{names:?}"));
        }
        "wrong" => std::process::exit(64),
        "stubborn" => {
            // SAFETY: takes numbers.
            unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
            say("deaf".to_owned());
        }
        "parent" => {
            let role = "counter";
            let me = std::env::current_exe().expect("a path");
            let status = Command::new(me).args(ARGUMENTS).env(ROLE, role).env(FILE, "end").status();
            say(format!("{:?}", parked.take("lives").is_some()));
            assert!(status.expect("runs").success());
        }
        other => panic!("no role {other}"),
    }
    if std::env::var(FILE).is_err() {
        thread::sleep(Duration::from_mins(1));
    }
}

#[test]
fn what_a_program_parks_is_there_when_it_was_killed() {
    let mut keeper = Kept::start("counter");
    for life in 0..3 {
        let pid = keeper.next(&format!("life {life}"));
        signal(pid, libc::SIGKILL);
    }
    keeper.end();
}

#[test]
fn an_upgrade_starts_what_lies_at_the_path_then() {
    let mut keeper = Kept::start("counter");
    let first = keeper.next("life 0");
    fs::rename(&keeper.path, keeper.path.with_extension("old")).expect("moves");
    fs::copy(std::env::current_exe().expect("a path"), &keeper.path).expect("copies");
    signal(keeper.pid(), libc::SIGHUP);
    let second = keeper.next("life 1");
    let running = fs::read_link(format!("/proc/{second}/exe")).expect("runs");
    assert!(first != second && running == keeper.path);
    keeper.end();
}

#[test]
fn there_is_a_limit_of_descriptors() {
    let mut keeper = Kept::start("hoarder");
    signal(keeper.next("has 0"), libc::SIGKILL);
    keeper.next(&format!("has {DESCRIPTORS_MAX}"));
    keeper.end();
}

#[test]
fn what_is_removed_or_has_no_name_is_not_kept() {
    let mut keeper = Kept::start("remover");
    let pid = keeper.next("[false, false, false]");
    // What was sent before a signal is heard before it.
    signal(pid, libc::SIGKILL);
    keeper.next("[true, false, false]");
    keeper.end();
}

#[test]
fn nobody_but_the_program_parks() {
    let mut keeper = Kept::start("parent");
    // Its own child has put a file into the store by then; the manager has not taken it.
    let pid = keeper.next("false");
    signal(pid, libc::SIGKILL);
    keeper.next("false");
    keeper.end();
}

#[test]
fn a_program_that_is_used_wrongly_is_not_started_again() {
    let mut keeper = Kept::start("wrong");
    assert_eq!(keeper.child.wait().expect("ends").code(), Some(64));
}

#[test]
fn a_program_does_not_outlive_its_keeper() {
    let mut keeper = Kept::start("counter");
    let pid = keeper.next("life 0");
    signal(keeper.pid(), libc::SIGKILL);
    keeper.child.wait().expect("ends");
    while fs::exists(format!("/proc/{pid}")).expect("looks") && !is_zombie(pid) {
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_program_that_does_not_end_is_killed() {
    let mut keeper = Kept::start("stubborn");
    keeper.next("deaf");
    keeper.end();
}

/// How the harness is told to run `program` alone.
const ARGUMENTS: [&str; 4] = ["--exact", "program", "--nocapture", "--test-threads=1"];

struct Kept {
    child: Child,
    lines: BufReader<ChildStdout>,
    path: PathBuf,
}

impl Kept {
    fn start(role: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("weft-keep-{}-{role}", std::process::id()));
        let folder = (0..).map(|n| folder.with_extension(n.to_string()));
        let folder = folder.into_iter().find(|path| fs::create_dir(path).is_ok()).expect("made");
        let path = folder.join("program");
        fs::copy(std::env::current_exe().expect("a path"), &path).expect("copies");
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft-keep"))
            .arg(&path)
            .args(ARGUMENTS)
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines, path }
    }

    fn pid(&self) -> libc::pid_t {
        self.child.id().cast_signed()
    }

    /// Waits until a program has said this, and tells its process id.
    fn next(&mut self, said: &str) -> libc::pid_t {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).expect("reads") > 0, "it ended before {said}");
            let Some((pid, text)) = line.strip_prefix(SAYS).and_then(|line| line.split_once(' '))
            else {
                continue;
            };
            if text.trim() == said {
                return pid.parse().expect("a number");
            }
        }
    }

    fn end(mut self) {
        signal(self.pid(), libc::SIGTERM);
        assert!(self.child.wait().expect("ends").success());
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(self.path.parent().expect("a folder"));
    }
}

/// A file that nobody else can find.
fn new_file() -> File {
    // SAFETY: the name lives during the call; the descriptor is new.
    unsafe {
        let fd = libc::memfd_create(c"weft-keep-test".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        File::from(<std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd))
    }
}

fn signal(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

fn is_zombie(pid: libc::pid_t) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}
