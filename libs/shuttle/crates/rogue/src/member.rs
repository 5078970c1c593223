//! One who has the tunnel key of a host.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use weft_seal::{DATA_HEADER_BYTES, Geneve, ReceiveSession, SendSession, TAG_BYTES};
use weft_tunnel::{
    ControlFrame, Endpoint, Engine, EngineConfig, LocalKey, Now, OsRandom, Output, PeerConfig,
    PeerId, PeerKind, Traffic,
};

use crate::{Outcome, bytes, key};

const PEER: PeerId = PeerId(1);
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);
/// For answers to the last frame.
const LINGER: Duration = Duration::from_millis(300);
const TICK: Duration = Duration::from_millis(1);
const DATA: u8 = 4;
/// No path here takes more.
const DATAGRAM_MAX_BYTES: usize = 2048;

pub(crate) fn play(file: &str) -> Outcome {
    let plan: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let text = |name: &str| plan[name].as_str().ok_or_else(|| format!("{name} is missing"));
    let number = |name: &str| plan[name].as_u64().ok_or_else(|| format!("{name} is missing"));
    let frame = bytes(text("frame")?)?;
    let vnis: Vec<u32> = plan["vnis"]
        .as_array()
        .ok_or("vnis are missing")?
        .iter()
        .filter_map(|vni| u32::try_from(vni.as_u64()?).ok())
        .collect();
    let (count, rate) = (number("count")?, number("rate")?.max(1));

    let mut peer = PeerConfig::new(key(text("peerKey")?)?, PeerKind::Node);
    peer.candidates = vec![text("to")?.parse()?];
    if let Some(secret) = plan["presharedKey"].as_str() {
        peer.preshared_key = Some(key(secret)?.into());
    }
    let own = LocalKey::new(&key(text("privateKey")?)?);
    let ahead = Duration::from_secs(plan["aheadS"].as_u64().unwrap_or(0));
    let mut member = Member::new(own, peer, text("listen")?.parse()?, ahead)?;
    let now = member.now();
    member.engine.want_session(now, PEER);
    let began = Instant::now();
    while member.send.is_none() && began.elapsed() < GIVE_UP_AFTER {
        member.turn()?;
    }
    let is_open = member.send.is_some();
    println!("{}", json!({ "event": if is_open { "ready" } else { "refused" } }));

    let began = Instant::now();
    let mut sent = 0;
    while is_open && sent < count {
        let due = began.elapsed().as_nanos() * u128::from(rate) / 1_000_000_000;
        while sent < count && u128::from(sent) <= due {
            let vni = vnis.get(usize::try_from(sent)? % vnis.len().max(1)).copied().unwrap_or(0);
            member.say(vni, &frame)?;
            sent += 1;
        }
        member.turn()?;
    }
    let ended = Instant::now();
    while is_open && ended.elapsed() < LINGER {
        member.turn()?;
    }
    Ok(json!({ "sent": sent, "heard": member.heard }))
}

struct Member {
    engine: Engine,
    socket: UdpSocket,
    started: Instant,
    ahead: Duration,
    send: Option<(u32, Arc<SendSession>, SocketAddr)>,
    receive: Vec<(u32, Arc<ReceiveSession>)>,
    heard: u64,
}

impl Member {
    fn new(
        own: LocalKey,
        peer: PeerConfig,
        listen: SocketAddr,
        ahead: Duration,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let socket = UdpSocket::bind(listen)?;
        socket.set_read_timeout(Some(TICK))?;
        let started = Instant::now();
        let now = now(started, ahead);
        let mut engine = Engine::new(EngineConfig::new(own), Box::new(OsRandom), now);
        engine.add_peer(now, PEER, peer)?;
        Ok(Self { engine, socket, started, ahead, send: None, receive: Vec::new(), heard: 0 })
    }

    fn now(&self) -> Now {
        now(self.started, self.ahead)
    }

    /// Does what is due, and takes what comes.
    fn turn(&mut self) -> io::Result<()> {
        let now = self.now();
        self.engine.handle_timeout(now);
        self.drain()?;
        let mut buffer = [0; DATAGRAM_MAX_BYTES];
        // What nobody takes is told by errors, which are for somebody else.
        if let Ok((length, remote)) = self.socket.recv_from(&mut buffer) {
            self.take(Endpoint { remote, local: None }, &mut buffer[..length]);
        }
        self.drain()
    }

    fn drain(&mut self) -> io::Result<()> {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Transmit(transmit) => {
                    match self.socket.send_to(&transmit.bytes, transmit.target) {
                        Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => {
                            return Err(error);
                        }
                        _ => {}
                    }
                }
                Output::SendWith { index, session, endpoint, .. } => {
                    self.send = Some((index, session, endpoint.remote));
                }
                Output::ReceiveWith { index, session, .. } => self.receive.push((index, session)),
                _ => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, from: Endpoint, datagram: &mut [u8]) {
        let now = self.now();
        if datagram.first() != Some(&DATA) {
            let _ = self.engine.handle_datagram(now, from, datagram);
            return;
        }
        let Some((header, sealed)) = datagram.split_first_chunk_mut::<DATA_HEADER_BYTES>() else {
            return;
        };
        let index = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let Some((_, session)) = self.receive.iter().find(|(known, _)| *known == index) else {
            return;
        };
        let [_, _, _, _, _, _, _, _, counter @ ..] = *header;
        let Ok(payload) = session.open_in_place(u64::from_le_bytes(counter), sealed) else {
            return;
        };
        self.heard += 1;
        // Its session may have ended meanwhile.
        let _ = if ControlFrame::parse(payload).is_ok() {
            self.engine.handle_opened(now, index, from, payload)
        } else {
            let packets = u64::from(!payload.is_empty());
            let traffic = Traffic { packets, bytes: payload.len() as u64 };
            self.engine.note_received(now, index, from, traffic)
        };
    }

    /// Sends a frame as if it were of that network.
    fn say(&mut self, vni: u32, frame: &[u8]) -> io::Result<()> {
        let Some((index, session, target)) = self.send.clone() else { return Ok(()) };
        let Some(counter) = session.claim(1) else { return Ok(()) };
        let geneve = Geneve::frame(vni, None);
        let mut payload = vec![0; geneve.header_bytes()];
        geneve.write(&mut payload);
        payload.extend_from_slice(frame);
        let mut message = vec![0; DATA_HEADER_BYTES + payload.len() + TAG_BYTES];
        message[0] = DATA;
        message[4..8].copy_from_slice(&session.receiver_index().to_le_bytes());
        message[8..16].copy_from_slice(&counter.to_le_bytes());
        session.seal_to(counter, &payload, &mut message[DATA_HEADER_BYTES..]);
        self.socket.send_to(&message, target)?;
        let now = self.now();
        let traffic = Traffic { packets: 1, bytes: payload.len() as u64 };
        let _ = self.engine.note_sent(now, index, traffic);
        Ok(())
    }
}

/// The time of a host whose clock is that much ahead of this machine's.
fn now(started: Instant, ahead: Duration) -> Now {
    // Far from zero, so that nothing depends on where a clock begins.
    let monotonic = Duration::from_hours(1) + started.elapsed();
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { monotonic, unix: unix + ahead }
}
