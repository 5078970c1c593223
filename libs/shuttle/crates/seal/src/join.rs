//! Opened payloads back into frames for the TAP, super-packets as they were at the sender.

use std::io::IoSlice;

use crate::batch::{BYTES_MAX, DATAGRAMS_MAX};
use crate::geneve::{Geneve, Segment, TRANSPARENT_ETHERNET};
use crate::headers::{ETHERNET_BYTES, HEADERS_MAX, Headers};
use crate::reason::DropReason;
use crate::vnet::{Gso, META_BYTES, SealMeta, Unfinished, VNET_BYTES, VnetHeader};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// What is written before the rest of every frame.
const HEAD_BYTES: usize = VNET_BYTES + ETHERNET_BYTES + META_BYTES;
const HEAD_MAX: usize = HEAD_BYTES + HEADERS_MAX - ETHERNET_BYTES;

/// An opened payload that carries a frame.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    vni: u32,
    ethernet: [u8; ETHERNET_BYTES],
    /// What follows the Ethernet header.
    body: &'a [u8],
    /// What is known of a TCP or UDP packet whose transport checksum is unfinished, or right.
    known: Option<(Segment, Headers)>,
}

impl<'a> Arrival<'a> {
    /// A frame behind a Geneve header that was read by [`Geneve::parse`].
    pub fn ethernet(geneve: &Geneve, frame: &'a [u8]) -> Result<Self, DropReason> {
        let malformed = DropReason::FrameMalformed;
        let (ethernet, body) = frame.split_first_chunk().ok_or(malformed)?;
        if geneve.control || geneve.protocol != TRANSPARENT_ETHERNET || frame.len() > BYTES_MAX {
            return Err(malformed);
        }
        let known = match geneve.segment.filter(|segment| segment.partial) {
            None => None,
            Some(segment) => Some((segment, checked(segment, frame).ok_or(malformed)?)),
        };
        Ok(Self { vni: geneve.vni, ethernet: *ethernet, body, known })
    }

    /// A packet of a stock peer, which gets an Ethernet header with the given addresses (target,
    /// then source). The zeros that such a peer adds behind it are left out.
    pub fn ip(vni: u32, macs: [u8; 12], packet: &'a [u8]) -> Result<Self, DropReason> {
        let (ethertype, length) = ip_length(packet).ok_or(DropReason::FrameMalformed)?;
        let body = packet.get(..length).ok_or(DropReason::FrameMalformed)?;
        let mut ethernet = [0; ETHERNET_BYTES];
        ethernet[..12].copy_from_slice(&macs);
        ethernet[12..].copy_from_slice(&ethertype.to_be_bytes());
        let headers = Headers::of_packet(body, ETHERNET_BYTES, ethertype == ETHERTYPE_IPV6)
            .filter(|headers| headers.is_intact(body));
        Ok(Self { vni, ethernet, body, known: headers.map(|headers| (finished(headers), headers)) })
    }

    /// The network.
    pub fn vni(&self) -> u32 {
        self.vni
    }

    fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.ethernet[12], self.ethernet[13]])
    }

    /// Whether `next` is the segment behind this one.
    fn precedes(&self, next: &Self) -> bool {
        let (Some((this, headers)), Some((that, _))) = (self.known, next.known) else {
            return false;
        };
        let wanted = Segment { index: this.index.wrapping_add(1), ..this };
        self.vni == next.vni
            && that == wanted
            && self.body.len() == headers.end - ETHERNET_BYTES + usize::from(this.gso_size)
            && next.body.len() <= self.body.len()
    }

    /// Whether `next` was sent on its own, as this one was, and one super-packet may hold both.
    fn resembles(&self, next: &Self) -> bool {
        let (Some((this, headers)), Some((that, _))) = (self.known, next.known) else {
            return false;
        };
        let skip = headers.end - ETHERNET_BYTES;
        let alike = (self.vni, self.ethernet) == (next.vni, next.ethernet)
            && (1, 1) == (this.count, that.count)
            && (this.udp, this.header_bytes) == (that.udp, that.header_bytes)
            && (skip + 1..=self.body.len()).contains(&next.body.len());
        if !alike {
            return false;
        }
        let (one, other, payload) =
            (&self.body[..skip], &next.body[..skip], self.body.len() - skip);
        headers.same_flow(one, other, ETHERNET_BYTES)
            && (headers.udp || headers.continues(one, other, ETHERNET_BYTES, payload))
    }

    /// The TCP flags.
    fn flags(&self) -> u8 {
        match self.known {
            Some((_, headers)) if !headers.udp => {
                self.body[headers.transport + 13 - ETHERNET_BYTES]
            }
            _ => 0,
        }
    }

    fn bytes(&self) -> usize {
        ETHERNET_BYTES + self.body.len()
    }
}

/// What stands for an option with a packet whose checksum is there and right.
fn finished(headers: Headers) -> Segment {
    Segment {
        gso_size: 0,
        index: 0,
        count: 1,
        super_id: 0,
        partial: false,
        udp: headers.udp,
        ecn: false,
        header_bytes: headers.end.to_le_bytes()[0],
    }
}

/// The ethertype of an IP packet, and its length as its header says.
fn ip_length(packet: &[u8]) -> Option<(u16, usize)> {
    let field =
        |at: usize| Some(usize::from(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?)));
    match packet.first()? >> 4 {
        4 => Some((ETHERTYPE_IPV4, field(2)?)).filter(|(_, length)| *length >= 20),
        6 => Some((ETHERTYPE_IPV6, 40 + field(4)?)),
        _ => None,
    }
}

/// The headers of a frame whose checksum is unfinished, where they are what the option says.
fn checked(segment: Segment, frame: &[u8]) -> Option<Headers> {
    let headers = Headers::parse(frame)?;
    let payload = frame.len() - headers.end;
    let fits = headers.udp == segment.udp
        && headers.end == usize::from(segment.header_bytes)
        && (segment.count == 1 || (1..=usize::from(segment.gso_size)).contains(&payload));
    fits.then_some(headers)
}

/// What one write to the TAP takes.
#[derive(Debug)]
pub struct Emission<'a> {
    /// First the header: virtio header, Ethernet header, meta, and in a super-packet the further
    /// headers. Then the payloads.
    pub parts: &'a [IoSlice<'a>],
    /// How many of the arrivals it holds.
    pub frames: usize,
}

/// The most parts of an [`Emission`].
pub const PARTS_MAX: usize = 1 + DATAGRAMS_MAX;

/// Gives frames to `emit`, joining runs of segments into super-packets of at most [`BYTES_MAX`]. Where
/// `emit` refuses a super-packet by `false`, its segments follow one by one; with `super_packets`
/// off all do.
pub fn join(
    host_id: u32,
    mut arrivals: &[Arrival<'_>],
    super_packets: bool,
    mut emit: impl FnMut(&Emission<'_>) -> bool,
) {
    while !arrivals.is_empty() {
        let run = if super_packets { run_length(arrivals) } else { 1 };
        let (these, rest) = arrivals.split_at(run);
        if run == 1 || !emit_run(host_id, these, &mut emit) {
            for arrival in these {
                emit_single(host_id, arrival, &mut emit);
            }
        }
        arrivals = rest;
    }
}

/// How many arrivals from the first one on make one super-packet: segments of one, or packets that were
/// sent apart. All but the last have the length of the first.
fn run_length(arrivals: &[Arrival<'_>]) -> usize {
    let full = arrivals[0].body.len();
    let mut bytes = arrivals[0].bytes();
    let mut run = 1;
    for pair in arrivals.windows(2).take(DATAGRAMS_MAX - 1) {
        bytes += pair[1].bytes();
        let joins = pair[0].precedes(&pair[1]) || pair[0].resembles(&pair[1]);
        if bytes > BYTES_MAX || pair[0].body.len() != full || !joins {
            break;
        }
        run += 1;
    }
    run
}

fn emit_single(host_id: u32, arrival: &Arrival<'_>, emit: &mut impl FnMut(&Emission<'_>) -> bool) {
    let mut head = [0; HEAD_MAX];
    let vnet = match arrival.known {
        Some((segment, headers)) if segment.partial => vnet(headers, None),
        _ => VnetHeader::default(),
    };
    write_head(&mut head, vnet, host_id, arrival);
    let parts = [IoSlice::new(&head[..HEAD_BYTES]), IoSlice::new(arrival.body)];
    emit(&Emission { parts: &parts, frames: 1 });
}

fn emit_run(
    host_id: u32,
    run: &[Arrival<'_>],
    emit: &mut impl FnMut(&Emission<'_>) -> bool,
) -> bool {
    let Some((segment, headers)) = run[0].known else { return false };
    let skip = headers.end - ETHERNET_BYTES;
    let payload = run.iter().map(|arrival| arrival.body.len() - skip).sum();
    let mut inner = [0; HEADERS_MAX];
    let inner = &mut inner[..headers.end];
    inner[..ETHERNET_BYTES].copy_from_slice(&run[0].ethernet);
    inner[ETHERNET_BYTES..].copy_from_slice(&run[0].body[..skip]);
    let last = run[run.len() - 1].flags();
    headers.set_flags(inner, headers.flags(inner) | last);
    headers.set_payload(inner, payload);
    headers.set_partial(inner, headers.addresses(inner), payload);
    let mut head = [0; HEAD_MAX];
    let gso_size = u16::try_from(run[0].body.len() - skip).unwrap_or(u16::MAX);
    let segment = Segment { gso_size, ..segment };
    write_head(&mut head, vnet(headers, Some(segment)), host_id, &run[0]);
    head[HEAD_BYTES..][..skip].copy_from_slice(&inner[ETHERNET_BYTES..]);
    let mut parts = [IoSlice::new(&[]); PARTS_MAX];
    parts[0] = IoSlice::new(&head[..HEAD_BYTES + skip]);
    for (part, arrival) in parts[1..].iter_mut().zip(run) {
        *part = IoSlice::new(&arrival.body[skip..]);
    }
    emit(&Emission { parts: &parts[..=run.len()], frames: run.len() })
}

fn vnet(headers: Headers, joined: Option<Segment>) -> VnetHeader {
    let field = |at: usize| u16::try_from(META_BYTES + at).unwrap_or_default();
    let gso = joined.map(|segment| {
        let kind = match (headers.udp, headers.v6) {
            (true, _) => Gso::Udp,
            (false, true) => Gso::Tcp6,
            (false, false) => Gso::Tcp4,
        };
        (kind, segment.gso_size)
    });
    VnetHeader {
        unfinished: Some(Unfinished {
            start: field(headers.transport),
            offset: field(headers.checksum_offset()) - field(0),
        }),
        gso,
        ecn: joined.is_some_and(|segment| segment.ecn),
        header_bytes: field(headers.end),
    }
}

/// Writes what stands before the rest of a frame: the kernel takes IPv4 or IPv6 from the Ethernet
/// header, and the programs find the true ethertype in the meta.
fn write_head(head: &mut [u8; HEAD_MAX], vnet: VnetHeader, host_id: u32, arrival: &Arrival<'_>) {
    let ethertype = arrival.ethertype();
    let v6 = arrival.known.map_or(ethertype == ETHERTYPE_IPV6, |(_, headers)| headers.v6);
    let shown = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    let meta = SealMeta { ethertype, host_id, vni: arrival.vni };
    let (front, rest) = head.split_at_mut(VNET_BYTES);
    front.copy_from_slice(&vnet.to_bytes());
    rest[..12].copy_from_slice(&arrival.ethernet[..12]);
    rest[12..ETHERNET_BYTES].copy_from_slice(&shown.to_be_bytes());
    rest[ETHERNET_BYTES..][..META_BYTES].copy_from_slice(&meta.to_bytes());
}
