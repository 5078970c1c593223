//! One of two hosts joined by one sealed link with preset keys, to be measured: a TAP that carries plain
//! Ethernet, without the kernel's programs. Never to be used for anything else: the keys are public.
//!
//! `pair SIDE TAP PORT PEER [CIPHER] [MAC]`: SIDE is `a` or `b`, PEER an address with port, CIPHER `aes`
//! (default) or `chacha`. With MAC, that of this side's TAP, the peer is treated as a stock one: no
//! Ethernet, no super-packets on the wire. Ends with SIGTERM.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use weft_lane::{
    CipherSpeeds, Fallback, Framing, Kind, Lanes, Offload, PeerEntry, Probes, Tap, UdpSocket,
};
use weft_seal::{Cipher, DropReason, ReceiveSession, SendSession};

const HOST: u32 = 1;
const VNI: u32 = 1;
/// What an underlay MTU of 1500 leaves in IPv4.
const DATAGRAM_BYTES_MAX: usize = 1472;
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize| arguments.get(at).map(String::as_str);
    let (Some(side), Some(name), Some(port), Some(peer)) =
        (argument(0), argument(1), argument(2), argument(3))
    else {
        return Err("usage: pair SIDE TAP PORT PEER [CIPHER] [MAC]".into());
    };
    let cipher = match argument(4) {
        Some("chacha") => Cipher::ChaCha20Poly1305,
        _ => Cipher::Aes256Gcm,
    };
    let kind = match argument(5) {
        Some(mac) => Kind::Stock { vni: VNI, macs: macs(mac)? },
        None => Kind::Node { vnis: vec![VNI], segments: true },
    };
    let (send_key, receive_key) = match side {
        "a" => ([1; 32], [2; 32]),
        _ => ([2; 32], [1; 32]),
    };

    let speeds = CipherSpeeds::measure(Duration::from_millis(20));
    println!("{speeds:?}: {}", speeds.choice().name());
    let tap =
        Tap::open(Path::new("/dev/net/tun"), name, Framing::Bare { host_id: HOST, vni: VNI })?;
    let probes = Probes::run(&tap);
    println!("{probes:?}");
    let (mut lanes, events) = Lanes::start(tap, UdpSocket::open(port.parse()?)?)?;
    let entry = PeerEntry {
        send: Some(Arc::new(SendSession::new(cipher, &send_key, 7, 0))),
        target: peer.parse()?,
        source: None,
        datagram_bytes_max: DATAGRAM_BYTES_MAX,
        kind,
    };
    probes.apply(&lanes);
    lanes.update(|table| {
        table.set_peer(HOST, entry);
        table.add_session(HOST, Arc::new(ReceiveSession::new(cipher, &receive_key, 7)));
    });
    loop {
        while let Ok(event) = events.next_within(REPORT_INTERVAL) {
            println!("{event:?}");
        }
        report(&lanes);
    }
}

/// Target and source address of what comes from the peer; nobody looks at the source.
fn macs(target: &str) -> Result<[u8; 12], Box<dyn Error>> {
    let mut macs = [2; 12];
    for (byte, text) in macs[..6].iter_mut().zip(target.split(':')) {
        *byte = u8::from_str_radix(text, 16)?;
    }
    Ok(macs)
}

fn report(lanes: &Lanes) {
    println!("{:?}", lanes.table().traffic(HOST));
    for reason in DropReason::ALL.iter().filter(|reason| lanes.dropped(**reason) > 0) {
        println!("  dropped {}: {}", reason.name(), lanes.dropped(*reason));
    }
    for fallback in Fallback::ALL.into_iter().filter(|fallback| lanes.fell_back(*fallback) > 0) {
        println!("  {}: {}", fallback.name(), lanes.fell_back(fallback));
    }
    for offload in Offload::ALL {
        print!("  {}: {}", offload.name(), lanes.offload(offload).name());
    }
    println!();
}
