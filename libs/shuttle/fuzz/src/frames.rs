//! What the packet threads do with frames and datagrams.

use weft_seal::{
    Arrival, BYTES_MAX, Batch, Cipher, DATAGRAMS_MAX, Form, Geneve, Message, Route, SendSession,
    TapFrame, VNET_BYTES, VnetHeader, join,
};

/// Reads the bytes as a datagram and as an opened payload.
pub(crate) fn headers(bytes: &[u8]) {
    let _ = Message::parse(bytes);
    if let Ok((geneve, _)) = Geneve::parse(bytes) {
        let mut out = vec![0; geneve.header_bytes()];
        geneve.write(&mut out);
        assert_eq!(Geneve::parse(&out).map(|(again, _)| again), Ok(geneve));
    }
}

/// Takes the bytes apart into opened payloads (each behind its length as two bytes in network order)
/// and joins those that are frames.
pub(crate) fn arrivals(mut bytes: &[u8]) {
    let mut arrivals = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        let parsed = Geneve::parse(payload).ok();
        arrivals.extend(parsed.and_then(|(geneve, frame)| Arrival::ethernet(&geneve, frame).ok()));
        arrivals.extend(Arrival::ip(1, [0; 12], payload).ok());
        bytes = rest;
    }
    for super_packets in [true, false] {
        let mut frames = 0;
        join(1, &arrivals, super_packets, |emission| {
            let length: usize = emission.parts.iter().map(|part| part.len()).sum();
            assert!(emission.frames == 1 || length <= VNET_BYTES + 16 + BYTES_MAX);
            let header = emission.parts[0].first_chunk().and_then(VnetHeader::parse);
            assert!(header.is_some_and(|header| header.gso.is_some() == (emission.frames > 1)));
            frames += emission.frames;
            true
        });
        assert_eq!(frames, arrivals.len());
    }
}

/// Reads the bytes as the TAP gives them, and cuts and seals the frame in every form.
pub(crate) fn tap_frame(bytes: &[u8]) {
    let session = SendSession::new(Cipher::Aes256Gcm, &[0; 32], 1, 0);
    for form in [Form::Ethernet { segments: true }, Form::Ethernet { segments: false }, Form::Ip] {
        let mut buffer = bytes.to_vec();
        let route = Route { session: &session, form, datagram_bytes_max: 1472 };
        let split = TapFrame::parse(&mut buffer).and_then(|frame| frame.split(&route));
        let Ok(mut split) = split else { continue };
        let mut batch = Batch::default();
        while let Ok(done) = split.fill(&mut batch) {
            assert!((1..=DATAGRAMS_MAX).contains(&batch.datagrams()));
            assert!(batch.bytes().len() <= BYTES_MAX && batch.datagram_bytes() <= 1472);
            batch.clear();
            if done {
                break;
            }
        }
    }
}
