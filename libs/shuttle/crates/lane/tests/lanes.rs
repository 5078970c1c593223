//! Two hosts in one process: sockets on the loopback, and a pair of sockets in place of each TAP.

use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::os::fd::{AsFd as _, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_lane::{
    EVENTS_MAX, Event, Events, Fallback, Family, Framing, Kind, Lanes, Offload, PeerEntry, State,
    Tap, UdpSocket,
};
use weft_seal::{
    Cipher, DATA_HEADER_BYTES, DataHeader, DropReason, Geneve, Gso, ReceiveSession, SealMeta,
    SendSession, TAG_BYTES, Unfinished, VNET_BYTES, VnetHeader,
};

const VNI: u32 = 7;
const OTHER_VNI: u32 = 8;
/// Host ids by side: each names the other one.
const PEERS: [u32; 2] = [102, 101];
/// The key of what each side sends.
const KEYS: [[u8; 32]; 2] = [[1; 32], [2; 32]];
/// By which index each side is sent to.
const INDICES: [u32; 2] = [11, 12];
/// Small datagrams that wait in a socket for sure.
const SOCKET_TAKES: u64 = 32;
const WITHIN: Duration = Duration::from_secs(5);

/// One host: its lanes and the kernel's end of its TAP.
struct Host {
    lanes: Lanes,
    events: Events,
    kernel: OwnedFd,
    address: SocketAddr,
    /// The descriptor of its socket.
    socket: i32,
}

#[test]
fn frames_cross_in_both_directions() {
    let hosts = joined();
    for (from, to) in [(0, 1), (1, 0)] {
        hosts[from].write(&frame(PEERS[from], VNI, 100, None));
        let (vnet, meta, bytes) = hosts[to].read();
        assert_eq!((meta.host_id, meta.vni), (PEERS[to], VNI));
        assert_eq!(vnet.gso, None);
        assert_eq!(bytes, plain(100));
    }
}

#[test]
fn a_super_packet_crosses_whole() {
    let hosts = joined();
    hosts[0].write(&frame(PEERS[0], VNI, 40_000, Some(1300)));
    let (vnet, _, bytes) = hosts[1].read();
    assert_eq!(vnet.gso, Some((Gso::Tcp4, 1300)));
    assert_eq!(bytes, plain(40_000));
}

#[test]
fn frames_cross_with_any_offload_off() {
    for offload in Offload::ALL {
        let hosts = joined();
        for host in &hosts {
            host.lanes.set_offload(offload, State::Off);
            assert_eq!(host.lanes.offload(offload), State::Off);
        }
        // Two segments of one length, and none shorter.
        hosts[0].write(&frame(PEERS[0], VNI, 2600, Some(1300)));
        let payload: usize = hosts[1].read_until(2600);
        assert_eq!(payload, 2600, "{}", offload.name());
        assert_eq!(hosts[1].lanes.dropped(DropReason::MessageUnknown), 0);
    }
}

#[test]
fn sending_singly_is_counted() {
    let hosts = joined();
    hosts[0].lanes.set_offload(Offload::UdpGso, State::Off);
    hosts[0].write(&frame(PEERS[0], VNI, 2600, Some(1300)));
    hosts[1].read_until(2600);
    assert_eq!(hosts[0].lanes.fell_back(Fallback::SentSingly), 1);
}

#[test]
fn traffic_is_counted_by_peer_and_survives_a_new_entry() {
    let mut hosts = joined();
    hosts[0].write(&frame(PEERS[0], VNI, 100, None));
    hosts[1].read();
    let sent = hosts[0].lanes.table().traffic(PEERS[0]).unwrap();
    let received = hosts[1].lanes.table().traffic(PEERS[1]).unwrap();
    assert_eq!((sent.sent_datagrams, received.received_datagrams), (1, 1));
    assert_eq!(sent.sent_bytes, received.received_bytes);
    assert_eq!(received.received_payloads, 1);
    let target = hosts[1].address;
    hosts[0].lanes.update(|table| {
        table.set_peer(PEERS[0], entry(0, target));
    });
    assert_eq!(hosts[0].lanes.table().traffic(PEERS[0]), Some(sent));
}

#[test]
fn frames_wait_for_a_session_and_go_in_order() {
    let mut hosts = joined();
    let target = hosts[1].address;
    let without = PeerEntry { send: None, ..entry(0, target) };
    hosts[0].lanes.update(|table| {
        table.set_peer(PEERS[0], without);
    });
    for payload in [100, 200, 300] {
        hosts[0].write(&frame(PEERS[0], VNI, payload, None));
    }
    assert_eq!(hosts[0].event(), Event::Wanted { host_id: PEERS[0] });
    // The event is of the first frame; the others may still be on their way to it.
    hosts[0].lanes.update(|table| {
        table.set_peer(PEERS[0], entry(0, target));
    });
    hosts[0].lanes.flush(PEERS[0]);
    let lengths = [0; 3].map(|_| hosts[1].read().2.len());
    assert_eq!(lengths, [100, 200, 300].map(|payload| plain(payload).len()));
    assert!(hosts[0].lanes.waiting_hosts().is_empty());
}

#[test]
fn a_session_that_could_not_be_asked_for_is_asked_for_with_the_next_frame() {
    let mut hosts = joined();
    let without = PeerEntry { send: None, ..entry(0, hosts[1].address) };
    hosts[0].lanes.update(|table| {
        table.set_peer(PEERS[0], without);
    });
    // The first of them is told of twice: it confirms the session too.
    for counter in 0..EVENTS_MAX as u64 {
        let message = sealed(1, counter, INDICES[0], &control());
        hosts[1].lanes.send(hosts[0].address, None, &message).unwrap();
        if counter % SOCKET_TAKES == 0 {
            hosts[0].received(counter + 1);
        }
    }
    hosts[0].dropped_times(DropReason::ControlFull, 1);
    hosts[0].write(&frame(PEERS[0], VNI, 100, None));
    hosts[0].dropped_times(DropReason::ControlFull, 2);
    hosts[0].events.present().for_each(drop);
    hosts[0].write(&frame(PEERS[0], VNI, 200, None));
    let wanted = Event::Wanted { host_id: PEERS[0] };
    while hosts[0].event() != wanted {}
    assert_eq!(hosts[0].lanes.waiting_hosts(), [PEERS[0]]);
}

#[test]
fn a_frame_for_an_unknown_host_is_dropped_by_name() {
    let hosts = joined();
    hosts[0].write(&frame(999, VNI, 100, None));
    hosts[0].dropped(DropReason::PeerUnknown);
}

#[test]
fn what_a_peer_may_not_send_is_dropped_by_name() {
    let hosts = joined();
    hosts[0].write(&frame(PEERS[0], OTHER_VNI, 100, None));
    hosts[1].dropped(DropReason::NetworkRefused);
    let ip = &plain(100)[14..];
    hosts[1].inject(0, ip);
    hosts[1].dropped(DropReason::KindRefused);
    hosts[1].inject(1, &[0; 3]);
    hosts[1].dropped(DropReason::GeneveMalformed);
}

#[test]
fn a_stock_peer_sends_ip_and_nothing_else() {
    let mut hosts = joined();
    let macs = [9; 12];
    let stock = PeerEntry { kind: Kind::Stock { vni: VNI, macs }, ..entry(1, hosts[0].address) };
    hosts[1].lanes.update(|table| {
        table.set_peer(PEERS[1], stock);
    });
    hosts[1].inject(0, &plain(100)[14..]);
    let (_, meta, bytes) = hosts[1].read();
    assert_eq!((meta.vni, &bytes[..12]), (VNI, &macs[..]));
    assert_eq!(bytes[14..], plain(100)[14..]);
    hosts[0].write(&frame(PEERS[0], VNI, 100, None));
    hosts[1].dropped(DropReason::KindRefused);
}

#[test]
fn forged_replayed_and_unknown_messages_are_dropped_by_name() {
    let hosts = joined();
    let socket = StdSocket::bind("127.0.0.1:0").unwrap();
    let send = |bytes: &[u8]| socket.send_to(bytes, hosts[1].address).unwrap();
    let mut message = sealed(0, 0, INDICES[1], &control());
    send(&message);
    assert!(matches!(hosts[1].event(), Event::Confirmed { .. }));
    send(&message);
    hosts[1].dropped(DropReason::Replayed);
    message[8] = 1;
    send(&message);
    hosts[1].dropped(DropReason::Forged);
    message[4] ^= 1;
    send(&message);
    hosts[1].dropped(DropReason::IndexUnknown);
    send(b"what is this");
    hosts[1].dropped(DropReason::MessageUnknown);
    // Of a peer it is the tail that makes lengths unequal.
    hosts[0].lanes.send(hosts[1].address, None, &[0]).unwrap();
    send(&[0]);
    hosts[1].dropped_times(DropReason::MessageUnknown, 2);
}

#[test]
fn a_message_with_any_bit_of_its_header_flipped_is_dropped_by_name() {
    let hosts = joined();
    let (whole, socket) = captured();
    for bit in 0..DATA_HEADER_BYTES * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        socket.send_to(&flipped, hosts[1].address).unwrap();
    }
    // Type and reserved bytes, receiver index, counter: which is the nonce.
    hosts[1].dropped_times(DropReason::MessageUnknown, 32);
    hosts[1].dropped_times(DropReason::IndexUnknown, 32);
    hosts[1].dropped_times(DropReason::Forged, 64);
    hosts[1].still_takes(&whole, &socket);
}

#[test]
fn a_message_with_any_bit_of_its_content_or_tag_flipped_is_forged() {
    let hosts = joined();
    let (whole, socket) = captured();
    let bits = DATA_HEADER_BYTES * 8..whole.len() * 8;
    for bit in bits.clone() {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        socket.send_to(&flipped, hosts[1].address).unwrap();
        // Not faster than the socket takes them.
        hosts[1].dropped_times(DropReason::Forged, bit - bits.start + 1);
    }
    hosts[1].still_takes(&whole, &socket);
}

#[test]
fn a_message_cut_short_anywhere_is_dropped_by_name() {
    let hosts = joined();
    let (whole, socket) = captured();
    for length in 0..whole.len() {
        socket.send_to(&whole[..length], hosts[1].address).unwrap();
    }
    hosts[1].dropped_times(DropReason::MessageUnknown, DATA_HEADER_BYTES);
    hosts[1].dropped_times(DropReason::Forged, whole.len() - DATA_HEADER_BYTES);
    hosts[1].still_takes(&whole, &socket);
}

#[test]
fn a_message_sent_back_to_its_sender_is_dropped_by_name() {
    let mut hosts = joined();
    let (whole, socket) = captured();
    socket.send_to(&whole, hosts[0].address).unwrap();
    hosts[0].dropped(DropReason::IndexUnknown);
    // Both hosts may have given a session the same index.
    let receive = ReceiveSession::new(Cipher::Aes256Gcm, &KEYS[1], INDICES[1]);
    hosts[0].lanes.update(|table| table.add_session(PEERS[0], Arc::new(receive)));
    socket.send_to(&whole, hosts[0].address).unwrap();
    hosts[0].dropped(DropReason::Forged);
}

#[test]
fn a_message_for_another_session_or_host_is_dropped_by_name() {
    const ANOTHER: u32 = 77;
    let mut hosts = joined();
    let (mut whole, socket) = captured();
    let third = Host::new();
    socket.send_to(&whole, third.address).unwrap();
    third.dropped(DropReason::IndexUnknown);
    let receive = ReceiveSession::new(Cipher::Aes256Gcm, &[9; 32], ANOTHER);
    hosts[1].lanes.update(|table| table.add_session(PEERS[1], Arc::new(receive)));
    whole[4..8].copy_from_slice(&ANOTHER.to_le_bytes());
    socket.send_to(&whole, hosts[1].address).unwrap();
    hosts[1].dropped(DropReason::Forged);
}

#[test]
fn a_message_that_comes_again_from_anywhere_is_dropped_by_name() {
    let hosts = joined();
    let (whole, socket) = captured();
    hosts[1].still_takes(&whole, &socket);
    let elsewhere = StdSocket::bind("127.0.0.2:0").unwrap();
    for (times, from) in [&socket, &elsewhere].into_iter().enumerate() {
        from.send_to(&whole, hosts[1].address).unwrap();
        hosts[1].dropped_times(DropReason::Replayed, times + 1);
    }
    let moved = hosts[1].events.present()
        .filter(|event| matches!(event, Event::Moved { source, .. } if source.ip() == elsewhere.local_addr().unwrap().ip()));
    assert_eq!(moved.count(), 0, "a replay moves nobody");
}

#[test]
fn messages_to_the_control_thread_are_no_payloads() {
    let hosts = joined();
    let socket = StdSocket::bind("127.0.0.1:0").unwrap();
    let send = |counter, payload: &[u8]| {
        let message = sealed(0, counter, INDICES[1], payload);
        socket.send_to(&message, hosts[1].address).unwrap();
    };
    send(0, &control());
    hosts[0].write(&frame(PEERS[0], VNI, 100, None));
    hosts[1].read();
    let deadline = Instant::now() + WITHIN;
    let received = || hosts[1].lanes.table().traffic(PEERS[1]).unwrap();
    while received().received_datagrams < 2 {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(received().received_payloads, 1);
}

#[test]
fn an_offload_that_the_kernel_does_not_have_is_refused_and_the_rest_works() {
    // A raw socket knows nothing of UDP's options.
    // SAFETY: socket() takes no pointers; the descriptor is new and nobody else's.
    let raw = unsafe {
        OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP))
    };
    let socket = UdpSocket::stand_in(raw, Family::V4);
    let (_kernel, tap) = socket_pair();
    let (lanes, _events) = Lanes::start(Tap::stand_in(tap, Framing::Meta), socket).unwrap();
    assert_eq!(lanes.offload(Offload::UdpGro), State::Refused);
    assert_eq!(lanes.offload(Offload::UdpGso), State::On);
    lanes.stop().unwrap();
}

#[test]
fn a_batch_that_the_kernel_does_not_take_is_halved_counted_and_arrives() {
    let hosts = joined();
    // Without checksums the kernel cuts nothing (net/ipv4/udp.c, udp_send_skb).
    let off: libc::c_int = 1;
    let (at, length) =
        ((&raw const off).cast(), libc::socklen_t::try_from(size_of_val(&off)).unwrap());
    let fd = hosts[0].socket;
    // SAFETY: the option is an int that lives during the call.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, at, length) };
    assert_eq!(set, 0);
    hosts[0].write(&frame(PEERS[0], VNI, 2600, Some(1300)));
    assert_eq!(hosts[1].read_until(2600), 2600);
    assert!(hosts[0].lanes.fell_back(Fallback::Halved) > 0);
}

#[test]
fn the_control_thread_hears_of_what_is_its_own() {
    let hosts = joined();
    let socket = StdSocket::bind("127.0.0.1:0").unwrap();
    let source = socket.local_addr().unwrap();
    let handshake = [1, 0, 0, 0, 5, 6];
    socket.send_to(&handshake, hosts[1].address).unwrap();
    let bytes = handshake.to_vec();
    assert_eq!(hosts[1].event(), Event::Handshake { source, known: false, bytes: bytes.clone() });
    hosts[0].lanes.send(hosts[1].address, None, &handshake).unwrap();
    let of_peer = Event::Handshake { source: hosts[0].address, known: true, bytes };
    assert_eq!(hosts[1].event(), of_peer);
    socket.send_to(&sealed(0, 0, INDICES[1], &control()), hosts[1].address).unwrap();
    let (host_id, index) = (PEERS[1], INDICES[1]);
    let events = [0; 3].map(|_| hosts[1].event());
    assert!(events.contains(&Event::Control { host_id, index, source, bytes: control() }));
    assert!(events.contains(&Event::Confirmed { host_id, index, source }));
    assert!(events.contains(&Event::Moved { host_id, index, source }));
    socket.send_to(&sealed(0, 1, INDICES[1], b""), hosts[1].address).unwrap();
    hosts[1].received(2);
    let traffic = hosts[1].lanes.table().traffic(PEERS[1]).unwrap();
    assert_eq!(traffic.received_payloads, 0, "neither was one");
    assert_eq!(hosts[1].events.present().next(), None, "each is told once");
}

#[test]
fn a_removed_peer_is_neither_sent_to_nor_heard() {
    let mut hosts = joined();
    hosts[1].lanes.update(|table| table.remove_peer(PEERS[1]));
    hosts[0].write(&frame(PEERS[0], VNI, 100, None));
    hosts[1].dropped(DropReason::IndexUnknown);
    hosts[1].write(&frame(PEERS[1], VNI, 100, None));
    hosts[1].dropped(DropReason::PeerUnknown);
}

#[test]
fn waiting_threads_stop() {
    let [first, second] = joined();
    assert!(first.lanes.is_running());
    first.lanes.stop().unwrap();
    second.lanes.stop().unwrap();
}

impl Host {
    fn new() -> Self {
        let (kernel, tap) = socket_pair();
        let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = format!("127.0.0.1:{}", socket.port().unwrap()).parse().unwrap();
        let fd = socket.as_fd().as_raw_fd();
        let (lanes, events) = Lanes::start(Tap::stand_in(tap, Framing::Meta), socket).unwrap();
        Self { lanes, events, kernel, address, socket: fd }
    }

    fn write(&self, bytes: &[u8]) {
        // SAFETY: the bytes live during the call.
        let written =
            unsafe { libc::write(self.kernel.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        assert_eq!(usize::try_from(written), Ok(bytes.len()));
    }

    fn read(&self) -> (VnetHeader, SealMeta, Vec<u8>) {
        let mut bytes = vec![0; 70_000];
        // SAFETY: the buffer lives during the call and has that length.
        let read =
            unsafe { libc::read(self.kernel.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
        bytes.truncate(usize::try_from(read).expect("a frame in time"));
        let vnet = VnetHeader::parse(bytes.first_chunk().unwrap()).unwrap();
        let meta = SealMeta::parse(bytes[VNET_BYTES + 14..].first_chunk().unwrap()).unwrap();
        let mut frame = bytes[VNET_BYTES..][..12].to_vec();
        frame.extend_from_slice(&meta.ethertype.to_be_bytes());
        frame.extend_from_slice(&bytes[VNET_BYTES + 30..]);
        (vnet, meta, frame)
    }

    /// Reads frames until their TCP payloads have that length together.
    fn read_until(&self, payload: usize) -> usize {
        let mut total = 0;
        while total < payload {
            total += self.read().2.len() - 54;
        }
        total
    }

    fn event(&self) -> Event {
        self.events.next_within(WITHIN).expect("an event in time")
    }

    /// Waits until so many datagrams of the peer were counted.
    fn received(&self, datagrams: u64) {
        let deadline = Instant::now() + WITHIN;
        let count = || {
            let table = self.lanes.table();
            PEERS.iter().find_map(|peer| table.traffic(*peer)).unwrap().received_datagrams
        };
        while count() < datagrams {
            assert!(Instant::now() < deadline, "{datagrams} in time");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Waits until the reason was counted once.
    fn dropped(&self, reason: DropReason) {
        self.dropped_times(reason, 1);
    }

    /// Waits until the reason was counted so often.
    fn dropped_times(&self, reason: DropReason, times: usize) {
        let deadline = Instant::now() + WITHIN;
        while self.lanes.dropped(reason) < times as u64 {
            assert!(Instant::now() < deadline, "{} in time", reason.name());
            std::thread::sleep(Duration::from_micros(100));
        }
        assert_eq!(self.lanes.dropped(reason), times as u64);
    }

    /// Takes a message as it is, whatever came before, and nothing else came through.
    fn still_takes(&self, whole: &[u8], socket: &StdSocket) {
        let received = || self.lanes.table().traffic(PEERS[1]).unwrap().received_datagrams;
        assert_eq!(received(), 0);
        socket.send_to(whole, self.address).unwrap();
        assert!(matches!(self.event(), Event::Confirmed { .. }));
        assert_eq!(received(), 1);
    }

    /// Sends the second host a payload as if it were from the first one.
    fn inject(&self, counter: u64, payload: &[u8]) {
        let socket = StdSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&sealed(0, counter, INDICES[1], payload), self.address).unwrap();
    }
}

/// Two hosts with a session each way.
fn joined() -> [Host; 2] {
    let mut hosts = [Host::new(), Host::new()];
    let addresses = [hosts[1].address, hosts[0].address];
    for side in 0..2 {
        let receive = ReceiveSession::new(Cipher::Aes256Gcm, &KEYS[1 - side], INDICES[side]);
        hosts[side].lanes.update(|table| {
            assert!(table.set_peer(PEERS[side], entry(side, addresses[side])));
            table.add_session(PEERS[side], Arc::new(receive));
        });
    }
    hosts
}

fn entry(side: usize, target: SocketAddr) -> PeerEntry {
    // No test sends again with counters that an entry before used.
    let first = if side == 0 { 1000 } else { 0 };
    let send = SendSession::new(Cipher::Aes256Gcm, &KEYS[side], INDICES[1 - side], first);
    PeerEntry {
        send: Some(Arc::new(send)),
        target,
        source: None,
        datagram_bytes_max: 1472,
        kind: Kind::Node { vnis: vec![VNI + 100, VNI], segments: true },
    }
}

/// A message that side `from` could have sent.
fn sealed(from: usize, counter: u64, receiver_index: u32, payload: &[u8]) -> Vec<u8> {
    let session = SendSession::new(Cipher::Aes256Gcm, &KEYS[from], receiver_index, 0);
    let mut message = vec![0; DATA_HEADER_BYTES + payload.len() + TAG_BYTES];
    DataHeader { receiver_index, counter }.write(&mut message);
    session.seal_to(counter, payload, &mut message[DATA_HEADER_BYTES..]);
    message
}

/// A message of the first host to the second, and a socket of somebody who has a copy.
fn captured() -> (Vec<u8>, StdSocket) {
    (sealed(0, 5, INDICES[1], &control()), StdSocket::bind("127.0.0.1:0").unwrap())
}

fn control() -> Vec<u8> {
    let geneve = Geneve { control: true, ..Geneve::frame(0, None) };
    let mut bytes = vec![0; geneve.header_bytes()];
    geneve.write(&mut bytes);
    bytes.extend_from_slice(b"hello");
    bytes
}

/// What the TAP gives: a TCP packet with its checksum unfinished.
fn frame(host_id: u32, vni: u32, payload: usize, gso_size: Option<u16>) -> Vec<u8> {
    let vnet = VnetHeader {
        unfinished: Some(Unfinished { start: 16 + 34, offset: 16 }),
        gso: gso_size.map(|size| (Gso::Tcp4, size)),
        ecn: false,
        header_bytes: 0,
    };
    let meta = SealMeta { ethertype: 0, host_id, vni };
    [&vnet.to_bytes()[..], &meta.to_bytes(), &plain(payload)].concat()
}

fn plain(payload: usize) -> Vec<u8> {
    let mut frame = vec![0; 54];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..26].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    let length = u16::try_from(payload + 40).unwrap();
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    let sum = !folded(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[46] = 5 << 4;
    frame[47] = 0x10;
    let pseudo = [&frame[26..34], &[0, 6], &(length - 20).to_be_bytes()].concat();
    frame[50..52].copy_from_slice(&folded(&pseudo).to_be_bytes());
    frame.extend((0..payload).map(|i| i.to_le_bytes()[0]));
    frame
}

fn folded(bytes: &[u8]) -> u16 {
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

/// Two sockets that keep the bounds of messages; reads of the first end after a while.
fn socket_pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: the array has room for two descriptors.
    let made =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()) };
    assert_eq!(made, 0);
    let limit = libc::timeval { tv_sec: 5, tv_usec: 0 };
    let length = libc::socklen_t::try_from(size_of_val(&limit)).unwrap();
    let at = (&raw const limit).cast();
    // SAFETY: the option is a timeval that lives during the call.
    let set = unsafe { libc::setsockopt(fds[0], libc::SOL_SOCKET, libc::SO_RCVTIMEO, at, length) };
    assert_eq!(set, 0);
    // SAFETY: both descriptors are new and nobody else's.
    unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) }
}
