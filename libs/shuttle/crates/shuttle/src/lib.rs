//! Moves the packets of a host's virtual networks: the only process with privileges. See the README
//! of `libs/shuttle`.
//!
//! Threads: the control thread runs the calls of the forwarder, timers and netlink events; `slow`
//! takes first packets from the kernel; `lane-transmit`
//! and `lane-receive` move sealed packets, and `seal-control` tells them by which sessions; calls that make devices or swap tables run on up to two
//! more, which end when idle.

mod config;
mod convert;
mod doctor;
mod failure;
pub mod fuzz;
mod log;
mod metrics;
mod parking;
mod ping;
mod plane;
mod proto;
mod sealing;
mod server;
mod service;
mod slow;
mod state;
mod trace;
mod watch;

mod underlay;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::{Command, Config};
use crate::metrics::Listener;
use crate::parking::Parking;
use crate::plane::{Plane, Taps};
use crate::proto::sealing_service_server::SealingServiceServer;
use crate::proto::shuttle_service_server::ShuttleServiceServer;
use crate::sealing::{Sealing, SealingService};
use crate::service::Service;
use crate::trace::Tracer;

/// Exit codes of `sysexits.h`: wrong usage, something lacks, a defect.
const EXIT_USAGE: u8 = 64;
const EXIT_UNAVAILABLE: u8 = 69;
const EXIT_DEFECT: u8 = 70;

/// The programs take the shuttle for dead after two seconds.
const BEAT_INTERVAL: Duration = Duration::from_millis(500);
/// A scan reads all flows at once: 131,072 of them take some 20 ms.
const EXPIRY_INTERVAL: Duration = Duration::from_mins(1);
/// Largest message: a chunk of tables has 256 KiB, a batch of answers far less.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Threads for calls that block: one that attaches and one that swaps tables or reads counters.
const BLOCKING_THREADS_MAX: usize = 2;
const BLOCKING_THREAD_IDLE: Duration = Duration::from_secs(5);

/// The process, from its arguments to its exit code.
pub fn main() -> ExitCode {
    let command = match config::parse(std::env::args_os().skip(1), |name| std::env::var_os(name)) {
        Ok(command) => command,
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("weft-shuttle: {mistake}");
            }
            eprintln!("weft-shuttle: --help tells what there is");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match command {
        Command::Help => {
            println!("{}", config::usage());
            ExitCode::SUCCESS
        }
        Command::Doctor { config, json } => {
            if doctor::print(&config, json) {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(EXIT_UNAVAILABLE)
            }
        }
        Command::Cleanup(config) => {
            exit_code(plane::clean_up(&config).map_err(|failure| failure.with_remedy()))
        }
        Command::Run(config) => {
            log::set_host(&config.host_name);
            hold_signals(libc::SIG_BLOCK);
            let parking = Arc::new(Parking::open());
            let taps = Taps::take(&parking);
            // First, because packets wait.
            let sealing = Sealing::new(config.state_folder.clone(), Arc::clone(&parking));
            sealing.resume(taps.seal.as_ref());
            exit_code(start(config, taps, &parking, sealing))
        }
    }
}

fn exit_code(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error("the shuttle cannot go on", json!({ "error": error }));
            ExitCode::from(EXIT_UNAVAILABLE)
        }
    }
}

fn start(
    config: Config,
    taps: Taps,
    parking: &Parking,
    sealing: Arc<Sealing>,
) -> Result<(), String> {
    let features = doctor::features(&config);
    let missing: Vec<_> =
        features.iter().filter(|feature| feature.required && !feature.present).collect();
    if !missing.is_empty() {
        let lines: Vec<_> =
            missing.iter().map(|feature| format!("{}: {}", feature.name, feature.detail)).collect();
        return Err(format!("the machine lacks what is needed: {}", lines.join("; ")));
    }
    let tracer = Tracer::open(config.trace_file.as_deref())
        .map_err(|error| format!("cannot open the trace file: {error}"))?;
    let plane = Plane::open(config, taps, parking).map_err(|failure| failure.with_remedy())?;
    let plane = Arc::new(plane);
    sealing.join(Arc::clone(&plane));
    give_memory_back();
    slow::spawn(Arc::clone(&plane)).map_err(|error| format!("cannot start a thread: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(BLOCKING_THREAD_IDLE)
        .build()
        .map_err(|error| format!("cannot start the control thread: {error}"))?;
    let served = runtime.block_on(run(plane, parking, sealing, tracer, features));
    // Calls under way are not waited for: the next process is.
    runtime.shutdown_background();
    served
}

/// Serves until a signal asks to stop. What is in the kernel goes on without the process.
///
/// SIGTERM asks to make room for the next process, where somebody starts one; SIGINT is the end.
async fn run(
    plane: Arc<Plane>,
    parking: &Parking,
    sealing: Arc<Sealing>,
    tracer: Tracer,
    features: Vec<proto::Feature>,
) -> Result<(), String> {
    let config = plane.config();
    let admitted = server::listen(&config.socket, config.admit_uid)
        .map_err(|error| format!("cannot listen at {}: {error}", config.socket.display()))?;
    if let Some(listen) = &config.metrics_listen {
        let listener = Listener::open(listen)
            .await
            .map_err(|error| format!("cannot serve metrics at {listen:?}: {error}"))?;
        tokio::spawn(listener.serve(Arc::clone(&plane), Arc::clone(&sealing)));
    }
    let watch = watch::Watcher::open(Arc::clone(&plane))
        .map_err(|error| format!("cannot watch the host's devices: {error}"))?;
    tokio::spawn(watch.run());
    tokio::spawn(keep_alive(Arc::clone(&plane)));
    tokio::spawn(expire(Arc::clone(&plane)));

    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    hold_signals(libc::SIG_UNBLOCK);
    let sealing_service = SealingServiceServer::new(SealingService::new(Arc::clone(&sealing)));
    let service = Service::new(Arc::clone(&plane), Arc::clone(&sealing), tracer, features);
    let service = ShuttleServiceServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX);
    log::info(
        "ready",
        json!({ "listen": [config.socket.display().to_string()], "admit_uid": config.admit_uid }),
    );
    parking.ready();
    sealing.note_success();
    let is_handed_over = tokio::select! {
        served = tonic::transport::Server::builder()
            .add_service(service)
            .add_service(sealing_service)
            .serve_with_incoming(admitted) => {
            return served.map_err(|error| format!("the server ended: {error}"));
        }
        _ = terminate.recv() => sealing.hand_over(),
        _ = interrupt.recv() => false,
    };
    if !is_handed_over {
        sealing.leave();
    }
    Ok(())
}

/// Whoever asks for an end while the start is under way gets it afterwards: what was taken over can then be
/// handed over. Of all threads only this one takes signals.
fn hold_signals(how: libc::c_int) {
    // SAFETY: the set is initialised by the calls, and lives during them.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

async fn keep_alive(plane: Arc<Plane>) {
    let mut ticks = interval(BEAT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        plane.beat();
    }
}

async fn expire(plane: Arc<Plane>) {
    let mut ticks = interval(EXPIRY_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let plane = Arc::clone(&plane);
        let expired = tokio::task::spawn_blocking(move || plane.expire_flows()).await;
        if let Ok(Err(failure)) = expired {
            log::warn("idle flows were not looked for", json!({ "error": failure.to_string() }));
        }
    }
}

/// Loading the programs takes some megabytes for a moment, which the allocator would keep.
fn give_memory_back() {
    // SAFETY: no arguments that could be wrong.
    unsafe { libc::malloc_trim(0) };
}
