//! Frames through split, seal, open and join, as two hosts would do it.

mod packets;

use packets::{Packet, check_standalone, packet, resolve};
use proptest::prelude::*;
use weft_seal::{
    Arrival, BYTES_MAX, Batch, Cipher, DATA_HEADER_BYTES, DATAGRAMS_MAX, DropReason, Form, Geneve,
    Gso, Message, OVERHEAD_BYTES, ReceiveSession, Route, SealMeta, Sealed, SendSession, TapFrame,
    VNET_BYTES, VnetHeader, join, super_packet_payload_bytes,
};

const KEY: [u8; 32] = [5; 32];
const HOST: u32 = 77;
const SEGMENTS: Form = Form::Ethernet { segments: true };
const PLAIN: Form = Form::Ethernet { segments: false };

/// One send: its bytes and the length of each datagram but the last.
type Send = (Vec<u8>, usize);

fn split(packet: &Packet, form: Form) -> Result<Vec<Send>, DropReason> {
    let session = SendSession::new(Cipher::Aes256Gcm, &KEY, 9, 0);
    let route = Route { session: &session, form, datagram_bytes_max: BYTES_MAX };
    let mut buffer = packet.as_read();
    let mut split = TapFrame::parse(&mut buffer)?.split(&route)?;
    let mut batch = Batch::default();
    let mut sends = Vec::new();
    loop {
        let done = split.fill(&mut batch)?;
        assert!(!batch.is_empty());
        assert!(batch.datagrams() <= DATAGRAMS_MAX);
        sends.push((batch.bytes().to_vec(), batch.datagram_bytes()));
        batch.clear();
        if done {
            return Ok(sends);
        }
    }
}

/// Opens the datagrams of one receive and gives their payloads.
fn open(session: &ReceiveSession, (bytes, datagram_bytes): &Send) -> Vec<Vec<u8>> {
    let mut bytes = bytes.clone();
    let mut batch: Vec<_> = bytes
        .chunks_mut(*datagram_bytes)
        .map(|datagram| {
            let Some(Message::Data(header)) = Message::parse(datagram) else { panic!("no data") };
            assert_eq!(header.receiver_index, 9);
            Sealed::new(header.counter, &mut datagram[DATA_HEADER_BYTES..])
        })
        .collect();
    session.open_batch(&mut batch);
    batch
        .into_iter()
        .map(|sealed| sealed.outcome.map(|()| sealed.bytes.to_vec()).expect("authentic"))
        .collect()
}

/// What is written to the TAP for the given receives, each write as one.
fn received(sends: &[Send], super_packets: bool) -> Vec<Vec<u8>> {
    let session = ReceiveSession::new(Cipher::Aes256Gcm, &KEY, 9);
    let mut writes = Vec::new();
    for send in sends {
        let payloads = open(&session, send);
        let arrivals: Vec<_> = payloads
            .iter()
            .map(|payload| {
                let (geneve, frame) = Geneve::parse(payload).unwrap();
                Arrival::ethernet(&geneve, frame).unwrap()
            })
            .collect();
        join(HOST, &arrivals, super_packets, |emission| {
            writes.push(emission.parts.iter().flat_map(|part| part.iter().copied()).collect());
            true
        });
    }
    writes
}

/// A write to the TAP as virtio header, meta and frame.
fn taken_apart(write: &[u8]) -> (VnetHeader, SealMeta, Vec<u8>) {
    let vnet = VnetHeader::parse(write.first_chunk().unwrap()).unwrap();
    let ethernet = &write[VNET_BYTES..][..14];
    let meta = SealMeta::parse(write[VNET_BYTES + 14..].first_chunk().unwrap()).unwrap();
    let mut frame = ethernet[..12].to_vec();
    frame.extend_from_slice(&meta.ethertype.to_be_bytes());
    frame.extend_from_slice(&write[VNET_BYTES + 30..]);
    (vnet, meta, frame)
}

#[test]
fn a_super_packet_of_the_advised_length_is_one_send_and_little_is_wasted() {
    for mtu in [576, 1280, 1320, 1400, 8_900, 65_000] {
        let payload = super_packet_payload_bytes(mtu).min(65_000);
        for (v6, tcp_options) in [(false, 0), (false, 12), (true, 0), (true, 12)] {
            let headers = if v6 { 60 } else { 40 } + tcp_options;
            let mss = mtu - headers;
            let whole = payload / mss * mss;
            let gso_size = Some(u16::try_from(mss).unwrap());
            let packet = Packet { v6, tcp_options, ..Packet::tcp4(whole.max(mss), gso_size) };
            let sends = split(&packet, SEGMENTS).unwrap();
            assert_eq!(sends.len(), 1, "MTU {mtu}, headers {headers}");
            let most = (BYTES_MAX / (mtu + OVERHEAD_BYTES)).min(DATAGRAMS_MAX);
            assert!(8 * (whole.max(mss) / mss) >= 7 * most, "MTU {mtu}, headers {headers}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_super_packet_arrives_as_it_was_sent(packet in packet()) {
        let sends = split(&packet, SEGMENTS).unwrap();
        let writes = received(&sends, true);
        prop_assert_eq!(writes.len(), sends.len());
        if let [write] = &writes[..] {
            let (vnet, meta, frame) = taken_apart(write);
            prop_assert_eq!(frame, packet.frame());
            prop_assert_eq!((meta.host_id, meta.vni), (HOST, packet.vni));
            prop_assert_eq!(vnet.unfinished, packet.vnet().unfinished);
            if packet.is_super() {
                prop_assert_eq!((vnet.gso, vnet.ecn), (packet.vnet().gso, packet.vnet().ecn));
            } else {
                prop_assert_eq!(vnet.gso, None);
            }
        }
    }

    #[test]
    fn every_segment_alone_is_a_valid_packet(packet in packet()) {
        let writes = received(&split(&packet, SEGMENTS).unwrap(), false);
        let mut frames = Vec::new();
        for write in &writes {
            let (vnet, _, mut frame) = taken_apart(write);
            prop_assert_eq!(vnet.gso, None);
            resolve(&vnet, &mut frame);
            frames.push(frame);
        }
        check_standalone(&packet, &frames);
    }

    #[test]
    fn a_peer_without_the_option_gets_finished_packets(packet in packet()) {
        let mut frames = Vec::new();
        for write in received(&split(&packet, PLAIN).unwrap(), true) {
            let (vnet, _, frame) = taken_apart(&write);
            prop_assert_eq!(vnet.unfinished, None);
            frames.push(frame);
        }
        check_standalone(&packet, &frames);
    }

    #[test]
    fn a_stock_peer_gets_ip_packets(mut packet in packet()) {
        packet.vlan = false;
        let session = ReceiveSession::new(Cipher::Aes256Gcm, &KEY, 9);
        let mut frames = Vec::new();
        for send in split(&packet, Form::Ip).unwrap() {
            for payload in open(&session, &send) {
                let macs: [u8; 12] = packet.frame()[..12].try_into().unwrap();
                let arrival = Arrival::ip(packet.vni, macs, &payload).unwrap();
                join(HOST, &[arrival], true, |emission| {
                    let write = [&*emission.parts[0], &*emission.parts[1]].concat();
                    frames.push(taken_apart(&write).2);
                    true
                });
            }
        }
        check_standalone(&packet, &frames);
    }

    #[test]
    fn lost_segments_leave_valid_super_packets(packet in packet(), lost in any::<u64>()) {
        let session = ReceiveSession::new(Cipher::Aes256Gcm, &KEY, 9);
        for send in split(&packet, SEGMENTS).unwrap() {
            let payloads = open(&session, &send);
            let kept = |(i, _): &(usize, &Vec<u8>)| lost >> (i % 64) & 1 == 0;
            let kept: Vec<_> = payloads.iter().enumerate().filter(kept).map(|(_, p)| p).collect();
            let arrivals: Vec<_> = kept
                .iter()
                .map(|payload| {
                    let (geneve, frame) = Geneve::parse(payload).unwrap();
                    Arrival::ethernet(&geneve, frame).unwrap()
                })
                .collect();
            let mut frames = 0;
            join(HOST, &arrivals, true, |emission| {
                frames += emission.frames;
                true
            });
            prop_assert_eq!(frames, kept.len());
        }
    }

    #[test]
    fn changed_truncated_or_repeated_datagrams_are_refused(
        packet in packet(),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let (bytes, datagram_bytes) = split(&packet, SEGMENTS).unwrap().swap_remove(0);
        let datagram = &bytes[..datagram_bytes.min(bytes.len())];
        let session = ReceiveSession::new(Cipher::Aes256Gcm, &KEY, 9);
        let attempt = |datagram: &[u8]| -> bool {
            let mut datagram = datagram.to_vec();
            let Some(Message::Data(header)) = Message::parse(&datagram) else { return false };
            header.receiver_index == 9
                && session.open_in_place(header.counter, &mut datagram[DATA_HEADER_BYTES..]).is_ok()
        };
        let mut changed = datagram.to_vec();
        changed[at.index(datagram.len())] ^= 1 << bit;
        prop_assert!(!attempt(&changed));
        prop_assert!(!attempt(&datagram[..at.index(datagram.len())]));
        prop_assert!(attempt(datagram));
        prop_assert!(!attempt(datagram));
    }
}

#[test]
fn a_reflected_datagram_does_not_open() {
    let (ours, theirs) = ([1; 32], [2; 32]);
    let send = SendSession::new(Cipher::ChaCha20Poly1305, &ours, 9, 0);
    let receive = ReceiveSession::new(Cipher::ChaCha20Poly1305, &theirs, 9);
    let mut bytes = vec![0; 40];
    send.seal_to(0, &[0; 24], &mut bytes);
    assert!(receive.open_in_place(0, &mut bytes).is_err());
}

#[test]
fn what_the_way_does_not_take_is_dropped_by_name() {
    let session = SendSession::new(Cipher::Aes256Gcm, &KEY, 9, 0);
    let packet = Packet::tcp4(4000, None);
    let reason = |form, datagram_bytes_max, session: &SendSession| {
        let route = Route { session, form, datagram_bytes_max };
        let mut buffer = packet.as_read();
        let mut split = TapFrame::parse(&mut buffer)?.split(&route)?;
        split.fill(&mut Batch::default()).map(|_| ())
    };
    assert_eq!(reason(SEGMENTS, 1400, &session), Err(DropReason::TooLarge));
    assert_eq!(reason(SEGMENTS, 9000, &session), Ok(()));
    let used_up = SendSession::new(Cipher::Aes256Gcm, &KEY, 9, weft_seal::REJECT_AFTER_MESSAGES);
    assert_eq!(reason(SEGMENTS, 9000, &used_up), Err(DropReason::Exhausted));
}

#[test]
fn a_frame_without_ip_passes_between_own_hosts_only() {
    let mut packet = Packet::tcp4(100, None);
    packet.arp = true;
    let writes = received(&split(&packet, SEGMENTS).unwrap(), true);
    let (vnet, _, frame) = taken_apart(&writes[0]);
    assert_eq!((vnet, frame), (VnetHeader::default(), packet.frame()));
    assert_eq!(split(&packet, Form::Ip).unwrap_err(), DropReason::NotIp);
}

/// What is written for IP packets of a stock peer that are received together: how many frames each
/// write holds, and the frame.
fn received_from_stock(packets: &[Vec<u8>]) -> Vec<(usize, Vec<u8>)> {
    let macs: [u8; 12] = Packet::tcp4(1, None).frame()[..12].try_into().unwrap();
    let arrivals: Vec<_> =
        packets.iter().map(|packet| Arrival::ip(1, macs, packet).unwrap()).collect();
    let mut writes = Vec::new();
    join(HOST, &arrivals, true, |emission| {
        let write: Vec<u8> = emission.parts.iter().flat_map(|part| part.iter().copied()).collect();
        writes.push((emission.frames, taken_apart(&write).2));
        true
    });
    writes
}

/// The IP packets that a stock peer would make of a super-packet.
fn stock_packets(packet: &Packet) -> Vec<Vec<u8>> {
    let session = ReceiveSession::new(Cipher::Aes256Gcm, &KEY, 9);
    let sends = split(packet, Form::Ip).unwrap();
    sends.iter().flat_map(|send| open(&session, send)).collect()
}

#[test]
fn segments_of_a_stock_peer_are_joined_again() {
    for (v6, udp) in [(false, false), (true, false), (false, true), (true, true)] {
        let tcp_options = if udp { 0 } else { 12 };
        let packet = Packet { v6, udp, tcp_options, ..Packet::tcp4(5000, Some(1000)) };
        let writes = received_from_stock(&stock_packets(&packet));
        assert_eq!(writes, [(5, packet.frame())]);
    }
}

#[test]
fn segments_of_a_stock_peer_that_do_not_fit_stay_apart() {
    let frames = |packets: &[Vec<u8>]| -> Vec<usize> {
        received_from_stock(packets).iter().map(|(frames, _)| *frames).collect()
    };
    let packets = stock_packets(&Packet::tcp4(4000, Some(1000)));
    assert_eq!(frames(&packets), [4]);
    let gap = [&packets[..2], &packets[3..]].concat();
    assert_eq!(frames(&gap), [2, 1]);
    let mut corrupt = packets.clone();
    corrupt[1][100] ^= 1;
    assert_eq!(frames(&corrupt), [1, 1, 2]);
    assert_eq!(received_from_stock(&corrupt)[1].1[14..], corrupt[1], "left to its receiver");
    let other = stock_packets(&Packet { flags: 0x11, ..Packet::tcp4(900, None) });
    assert_eq!(frames(&[packets[..1].to_vec(), other].concat()), [1, 1], "FIN is not joined");
    let pushed = [&packets[3..], &packets[..1]].concat();
    assert_eq!(frames(&pushed), [1, 1], "nothing follows PSH");
}

#[test]
fn the_padding_of_a_stock_peer_is_left_out() {
    let packet = &Packet::tcp4(5, None).frame()[14..];
    let written = |packet: &[u8]| {
        let mut length = 0;
        let arrival = Arrival::ip(1, [0; 12], packet)?;
        join(HOST, &[arrival], true, |emission| {
            length = emission.parts[1].len();
            true
        });
        Ok(length)
    };
    let padded = [packet, &[0; 11]].concat();
    assert_eq!(written(&padded), Ok(packet.len()));
    let truncated = &packet[..packet.len() - 1];
    assert_eq!(written(truncated), Err(DropReason::FrameMalformed));
    assert_eq!(written(&[0x45]), Err(DropReason::FrameMalformed));
}

#[test]
fn small_frames_for_one_peer_share_a_send() {
    let session = SendSession::new(Cipher::Aes256Gcm, &KEY, 9, 0);
    let route = Route { session: &session, form: SEGMENTS, datagram_bytes_max: 1400 };
    let mut batch = Batch::default();
    let mut add = |payload: usize| {
        let mut buffer = Packet::tcp4(payload, None).as_read();
        TapFrame::parse(&mut buffer).unwrap().split(&route).unwrap().fill(&mut batch).unwrap()
    };
    let fitted = [100, 100, 60, 60, 100].map(&mut add);
    assert_eq!(fitted, [true, true, true, false, false], "the shorter one closes the batch");
    assert_eq!(batch.datagrams(), 3);
    batch.clear();
    assert!(batch.is_empty() && batch.is_open());
}

#[test]
fn a_super_packet_that_the_kernel_refuses_follows_in_single_frames() {
    let packet = Packet::tcp4(5000, Some(1000));
    let sends = split(&packet, SEGMENTS).unwrap();
    let payloads = open(&ReceiveSession::new(Cipher::Aes256Gcm, &KEY, 9), &sends[0]);
    let arrivals: Vec<_> = payloads
        .iter()
        .map(|payload| {
            let (geneve, frame) = Geneve::parse(payload).unwrap();
            Arrival::ethernet(&geneve, frame).unwrap()
        })
        .collect();
    let mut taken = Vec::new();
    join(HOST, &arrivals, true, |emission| {
        taken.push(emission.frames);
        emission.frames == 1
    });
    assert_eq!(taken, [5, 1, 1, 1, 1, 1]);
}

/// What is written for packets that were sealed on their own and received together.
fn received_together(packets: &[Packet]) -> Vec<(VnetHeader, Vec<u8>)> {
    let sends: Vec<_> =
        packets.iter().map(|packet| split(packet, SEGMENTS).unwrap().swap_remove(0)).collect();
    // Every split begins with counter 0: each send is of a session of its own.
    let payloads: Vec<_> = sends
        .iter()
        .flat_map(|send| open(&ReceiveSession::new(Cipher::Aes256Gcm, &KEY, 9), send))
        .collect();
    let arrivals: Vec<_> = payloads
        .iter()
        .map(|payload| {
            let (geneve, frame) = Geneve::parse(payload).unwrap();
            Arrival::ethernet(&geneve, frame).unwrap()
        })
        .collect();
    let mut writes = Vec::new();
    join(HOST, &arrivals, true, |emission| {
        let write: Vec<u8> = emission.parts.iter().flat_map(|part| part.iter().copied()).collect();
        let (vnet, _, frame) = taken_apart(&write);
        writes.push((vnet, frame));
        true
    });
    writes
}

fn datagram(payload: usize) -> Packet {
    Packet { udp: true, tcp_options: 0, ..Packet::tcp4(payload, None) }
}

#[test]
fn datagrams_of_one_flow_that_come_together_are_written_as_one() {
    for v6 in [false, true] {
        let packets = [100, 100, 60].map(|payload| Packet { v6, ..datagram(payload) });
        let writes = received_together(&packets);
        let [(vnet, frame)] = &writes[..] else { panic!("{} writes", writes.len()) };
        assert_eq!(vnet.gso, Some((Gso::Udp, 100)));
        assert_eq!(*frame, Packet { v6, ..datagram(260) }.frame());
    }
}

#[test]
fn datagrams_that_differ_are_written_apart() {
    let lengths = |packets: &[Packet]| -> Vec<usize> {
        received_together(packets).iter().map(|(_, frame)| frame.len() - 42).collect()
    };
    let (small, large) = (datagram(60), datagram(100));
    assert_eq!(lengths(&[small.clone(), large.clone(), large.clone()]), [60, 200]);
    assert_eq!(lengths(&[large.clone(), small.clone(), small.clone()]), [160, 60]);
    let elsewhere = Packet { vni: 43, ..large.clone() };
    assert_eq!(lengths(&[large.clone(), elsewhere]), [100, 100]);
    let tagged = Packet { vlan: true, ..large.clone() };
    assert_eq!(lengths(&[large.clone(), tagged]), [100, 104]);
    let longer = Packet { ip_options: 4, ..large.clone() };
    assert_eq!(lengths(&[large, longer]), [100, 104]);
    assert_eq!(received_together(&[Packet::tcp4(9, None), Packet::tcp4(9, None)]).len(), 2);
}
