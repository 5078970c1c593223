//! All hosts and the socket that they share.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use weft_abi::{Plain as _, SEAL_MAGIC, SealMeta};
use weft_tunnel::Now;

use crate::args::{Args, Changes};
use crate::changes::Round;
use crate::host::{Host, SHUTTLE};
use crate::print_line;
use crate::sys::{FrameSocket, Wire, is_stopped, times_asked};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// How often timers are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Longest wait for a datagram.
const PATIENCE: Duration = Duration::from_millis(1);
/// Datagrams that are taken before frames go out and timers are looked at again.
const DATAGRAMS_PER_TURN_MAX: usize = 8;
/// Frames go out at this pace, all within an eighth of a second, and no more than these at once: the TAP has room for 256 while
/// its reader sleeps.
const FRAME_INTERVAL: Duration = Duration::from_micros(125);
const FRAMES_PER_TURN_MAX: usize = 64;
/// A frame that has not come by then is sent again, as whoever waits for an answer does.
const FRAME_AGAIN_AFTER: Duration = Duration::from_millis(500);
const VNI: u32 = 0x00c0_ffee;
/// For local experiments (IEEE 802, 9.2.3).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// The hosts. Host `n` of the row has number `n + 2` and the `n`th address after the first.
pub(crate) struct Crowd {
    hosts: Vec<Host>,
    first: Ipv4Addr,
    wire: Wire,
    frames: Option<FrameSocket>,
    give_up: Duration,
    /// The clock of the engines begins here.
    started: Instant,
    looked: Instant,
    begun: Option<Begun>,
    /// Frames of the present round that went out.
    round_frames: usize,
    /// When the round began.
    round_at: Instant,
    frames_sent: usize,
    changes: Option<Changes>,
    /// In which hosts change their keys, the last one under way or over.
    rounds: Vec<Round>,
}

struct Begun {
    at: Instant,
    /// Hosts that had a session before.
    before: usize,
    /// When each of the others had one.
    times: Vec<u64>,
    is_told: bool,
}

impl Crowd {
    /// Makes the hosts and opens the socket.
    pub(crate) fn gather(args: &Args) -> Outcome<Self> {
        let started = Instant::now();
        let wire = Wire::open(args.port)?;
        let frames = args.frames.as_ref().map(FrameSocket::open).transpose()?;
        let address =
            |at: usize| Some(args.first.to_bits().checked_add(u32::try_from(at).ok()?)?.into());
        let mut hosts = Vec::with_capacity(args.keys.len());
        for (at, key) in args.keys.iter().enumerate() {
            let address = address(at).ok_or("there are not so many addresses")?;
            hosts.push(Host::new(key, address, args.shuttle, args.shuttle_key, clock(started))?);
        }
        Ok(Self {
            hosts,
            first: args.first,
            wire,
            frames,
            give_up: args.give_up,
            started,
            looked: started,
            begun: None,
            round_frames: 0,
            round_at: started,
            frames_sent: 0,
            changes: args.changes,
            rounds: Vec::new(),
        })
    }

    /// Lives until it is told to stop.
    pub(crate) fn run(mut self) -> Outcome<Value> {
        print_line(&json!({ "event": "ready" }));
        while !is_stopped() {
            self.go_on()?;
            self.send_frames()?;
            self.wire.wait(PATIENCE)?;
            self.receive()?;
            self.look()?;
            self.tell();
        }
        Ok(self.report("result"))
    }

    fn now(&self) -> Now {
        clock(self.started)
    }

    /// Does what was asked for last: the first time sessions begin, each further time their keys change.
    fn go_on(&mut self) -> Outcome<()> {
        let asked = times_asked();
        if asked > 0 && self.begun.is_none() {
            self.begin()?;
        }
        if let Some(changes) = self.changes
            && asked > 1 + self.rounds.len()
            && self.is_idle()
        {
            self.rounds.push(Round::new(changes, u32::try_from(self.hosts.len())?));
        }
        Ok(())
    }

    /// What was asked for is done and told.
    fn is_idle(&self) -> bool {
        self.begun.as_ref().is_some_and(|begun| begun.is_told)
            && self.rounds.last().is_none_or(|round| round.is_told)
    }

    fn begin(&mut self) -> Outcome<()> {
        let before = self.hosts.iter().filter(|host| host.is_established()).count();
        self.round_at = Instant::now();
        self.begun = Some(Begun { at: self.round_at, before, times: Vec::new(), is_told: false });
        if self.frames.is_some() {
            return Ok(());
        }
        for at in 0..self.hosts.len() {
            let now = self.now();
            self.act(at, |host| host.begin(now))?;
            self.receive()?;
        }
        Ok(())
    }

    /// Makes the shuttle want sessions.
    fn send_frames(&mut self) -> Outcome<()> {
        let (Some(frames), Some(Begun { is_told: false, .. })) = (&self.frames, &self.begun) else {
            return Ok(());
        };
        let due = self.round_at.elapsed().as_micros() / FRAME_INTERVAL.as_micros();
        let most = self.hosts.len().min(self.round_frames + FRAMES_PER_TURN_MAX);
        let due = usize::try_from(due)?.min(most);
        for at in self.round_frames..due {
            if self.hosts[at].frames == 0 {
                frames.send(&frame(u32::try_from(at)? + SHUTTLE.0 + 1))?;
                self.frames_sent += 1;
            }
        }
        self.round_frames = self.round_frames.max(due);
        if self.round_frames == self.hosts.len() && self.round_at.elapsed() > FRAME_AGAIN_AFTER {
            self.round_frames = 0;
            self.round_at = Instant::now();
        }
        Ok(())
    }

    /// Takes what is there.
    fn receive(&mut self) -> Outcome<()> {
        let mut buffer = [0; 2048];
        for _ in 0..DATAGRAMS_PER_TURN_MAX {
            let Some(received) = self.wire.receive(&mut buffer)? else { break };
            let at = received.target.to_bits().wrapping_sub(self.first.to_bits()) as usize;
            if at < self.hosts.len() {
                let now = self.now();
                let bytes = &mut buffer[..received.bytes];
                self.act(at, |host| host.receive(now, received.source.into(), bytes))?;
            }
        }
        Ok(())
    }

    fn look(&mut self) -> Outcome<()> {
        if self.looked.elapsed() < LOOK_INTERVAL {
            return Ok(());
        }
        self.looked = Instant::now();
        let now = self.now();
        for at in 0..self.hosts.len() {
            if self.hosts[at].is_due(now) {
                self.act(at, |host| host.handle_timeout(now))?;
            }
            if let Some(round) = self.rounds.last_mut()
                && round.is_due(at)
            {
                round.note_begun(at);
                self.act(at, |host| host.change_keys(now))?;
            }
        }
        Ok(())
    }

    /// Lets a host do something, and sends what comes of it.
    fn act(&mut self, at: usize, act: impl FnOnce(&mut Host)) -> Outcome<()> {
        let host = &mut self.hosts[at];
        let was_established = host.is_established();
        act(host);
        while let Some((target, bytes)) = host.poll() {
            self.wire.send(host.address, target, &bytes)?;
        }
        if was_established || !host.is_established() {
            return Ok(());
        }
        if let Some(round) = self.rounds.last_mut() {
            round.note_established(at);
        } else if let Some(begun) = &mut self.begun {
            begun.times.push(u64::try_from(begun.at.elapsed().as_nanos())?);
        }
        Ok(())
    }

    fn tell(&mut self) {
        let all = self.hosts.len();
        let Some(begun) = &mut self.begun else { return };
        let is_over = begun.before + begun.times.len() == all || begun.at.elapsed() > self.give_up;
        if is_over && !begun.is_told {
            begun.is_told = true;
            print_line(&self.report("established"));
        }
        let number = self.rounds.len();
        if let Some(round) = self.rounds.last_mut()
            && !round.is_told
            && round.is_over(self.give_up)
        {
            round.is_told = true;
            print_line(&round.report(number));
        }
    }

    fn report(&self, event: &str) -> Value {
        let (before, times) =
            self.begun.as_ref().map_or((0, &[][..]), |begun| (begun.before, &begun.times[..]));
        json!({
            "event": event,
            "hosts": self.hosts.len(),
            "established": self.hosts.iter().filter(|host| host.is_established()).count(),
            "established_before": before,
            "first_ns": times.first(),
            "p50_ns": times.get(times.len() / 2),
            "last_ns": times.last(),
            "frames_sent": self.frames_sent,
            "frames_arrived": self.hosts.iter().map(|host| host.frames).sum::<usize>(),
        })
    }
}

fn clock(started: Instant) -> Now {
    // Engines reckon with times before now.
    let monotonic = started.elapsed() + Duration::from_hours(1);
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { monotonic, unix }
}

/// A short Ethernet frame for a host, as it comes to the shuttle's TAP.
fn frame(host_id: u32) -> Vec<u8> {
    let meta = SealMeta {
        magic: SEAL_MAGIC,
        flags: 0,
        ethertype: ETHERTYPE,
        host_id,
        vni: VNI,
        reserved: 0,
    };
    let macs = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    [meta.as_bytes(), &macs, &ETHERTYPE, &[0; 46]].concat()
}
