//! Frames from the TAP, super-packets among them, into sealed datagrams.

use crate::batch::{BYTES_MAX, Batch, DATAGRAMS_MAX};
use crate::checksum::Sum;
use crate::cipher::TAG_BYTES;
use crate::geneve::{GENEVE_BYTES, GENEVE_SEGMENT_BYTES, Geneve, Segment};
use crate::headers::{ETHERNET_BYTES, HEADERS_MAX, Headers, no_zero, segment_flags};
use crate::reason::DropReason;
use crate::session::SendSession;
use crate::vnet::{Gso, META_BYTES, SealMeta, Unfinished, VNET_BYTES, VnetHeader};
use crate::wire::DATA_HEADER_BYTES;

/// Where a frame begins in what is read from the TAP.
pub const FRAME_AT: usize = VNET_BYTES + META_BYTES;
/// Bytes that a read from the TAP may fill.
pub const TAP_BYTES_MAX: usize = FRAME_AT + 65_535;

/// Before and after an inner IP packet in a datagram between own hosts: header and tag of a data
/// message, Geneve with option SEG, the Ethernet header.
pub const OVERHEAD_BYTES: usize =
    DATA_HEADER_BYTES + TAG_BYTES + GENEVE_SEGMENT_BYTES + ETHERNET_BYTES;
/// The longest IPv6 and TCP headers of a bulk flow: with time stamps (RFC 7323).
const TCP_HEADERS_BYTES: usize = 40 + 20 + 12;

const PREFIX_MAX: usize = GENEVE_SEGMENT_BYTES + HEADERS_MAX;

/// The largest TCP payload of which the whole segments go in one send between own hosts, where IP
/// packets have at most `mtu_bytes`. A little more would cost a second send.
pub fn super_packet_payload_bytes(mtu_bytes: usize) -> usize {
    let datagrams = (BYTES_MAX / (mtu_bytes + OVERHEAD_BYTES)).clamp(1, DATAGRAMS_MAX);
    ((datagrams + 1) * mtu_bytes.saturating_sub(TCP_HEADERS_BYTES)).saturating_sub(1)
}

/// What the payload of a peer's messages is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Geneve and an Ethernet frame. With `segments` the peer understands option SEG: super-packets
    /// may be joined again, and transport checksums stay unfinished.
    Ethernet {
        /// Whether the peer announced it.
        segments: bool,
    },
    /// An IP packet alone, as stock peers take it.
    Ip,
}

/// How frames reach a peer.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// What seals them.
    pub session: &'a SendSession,
    /// What they are sent as.
    pub form: Form,
    /// The longest datagram that the way to the peer takes, without IP and UDP headers.
    pub datagram_bytes_max: usize,
}

/// A frame as it was read from the TAP.
#[derive(Debug)]
pub struct TapFrame<'a> {
    buffer: &'a mut [u8],
    vnet: VnetHeader,
    meta: SealMeta,
}

impl<'a> TapFrame<'a> {
    /// Reads what stands before the frame. `buffer` is exactly what one read gave.
    pub fn parse(buffer: &'a mut [u8]) -> Result<Self, DropReason> {
        let read = |bytes: &[u8]| {
            let (vnet, rest) = bytes.split_first_chunk()?;
            let (meta, frame) = rest.split_first_chunk()?;
            let fits = (ETHERNET_BYTES..=TAP_BYTES_MAX - FRAME_AT).contains(&frame.len());
            Some((VnetHeader::parse(vnet)?, SealMeta::parse(meta)?)).filter(|_| fits)
        };
        let (vnet, meta) = read(buffer).ok_or(DropReason::TapFrame)?;
        Ok(Self { buffer, vnet, meta })
    }

    /// Which peer and network it is for.
    pub fn meta(&self) -> SealMeta {
        self.meta
    }

    /// Prepares the frame for its way.
    pub fn split(self, route: &Route<'a>) -> Result<Split<'a>, DropReason> {
        Split::new(self, *route)
    }
}

/// A frame, or what is left of it to send.
#[derive(Debug)]
pub struct Split<'a> {
    route: Route<'a>,
    buffer: &'a mut [u8],
    /// Where what was not sent yet begins.
    next: usize,
    /// Bytes of payload in each segment but the last.
    step: usize,
    prefix: Prefix,
    segment: Option<Segment>,
    vni: u32,
    cut: Option<Cut>,
}

/// What is written before each payload. Inner headers begin at [`GENEVE_SEGMENT_BYTES`]; before them
/// stands as much of the Geneve header as there is, or nothing, and then the first of them may be
/// left out too.
#[derive(Debug)]
struct Prefix {
    bytes: [u8; PREFIX_MAX],
    from: usize,
    to: usize,
}

/// A super-packet's headers and how far it was cut.
#[derive(Debug)]
struct Cut {
    headers: Headers,
    addresses: Sum,
    flags: u8,
    started: bool,
}

impl<'a> Split<'a> {
    fn new(frame: TapFrame<'a>, route: Route<'a>) -> Result<Self, DropReason> {
        let TapFrame { buffer, vnet, meta } = frame;
        let headers = Headers::parse(&buffer[FRAME_AT..]);
        let skipped = match route.form {
            Form::Ethernet { .. } => 0,
            Form::Ip => {
                is_ip(&buffer[FRAME_AT..]).then_some(ETHERNET_BYTES).ok_or(DropReason::NotIp)?
            }
        };
        let segment = segment(&vnet, headers, route.form);
        let mut split = Self {
            route,
            next: FRAME_AT + skipped,
            step: buffer.len() - FRAME_AT - skipped,
            prefix: Prefix::new(route.form, segment.is_some(), skipped),
            segment,
            vni: meta.vni,
            cut: None,
            buffer,
        };
        match vnet.gso {
            Some(gso) => split.cut(gso, headers)?,
            None if segment.is_none() => split.finish_checksum(vnet.unfinished)?,
            None => {}
        }
        if split.datagram_bytes(split.step) > route.datagram_bytes_max.min(BYTES_MAX) {
            return Err(DropReason::TooLarge);
        }
        Ok(split)
    }

    /// Sets up a super-packet to be cut.
    fn cut(&mut self, (gso, size): (Gso, u16), headers: Option<Headers>) -> Result<(), DropReason> {
        let fits = |headers: &Headers| {
            let kind = match gso {
                Gso::Tcp4 => !headers.udp && !headers.v6,
                Gso::Tcp6 => !headers.udp && headers.v6,
                Gso::Udp => headers.udp,
            };
            kind && FRAME_AT + headers.end < self.buffer.len()
        };
        let headers = headers.filter(fits).ok_or(DropReason::Unsplittable)?;
        let inner = &self.buffer[FRAME_AT..][..headers.end];
        self.prefix.bytes[GENEVE_SEGMENT_BYTES..][..inner.len()].copy_from_slice(inner);
        self.prefix.to = GENEVE_SEGMENT_BYTES + inner.len();
        self.cut = Some(Cut {
            headers,
            addresses: headers.addresses(inner),
            flags: headers.flags(inner),
            started: false,
        });
        self.next = FRAME_AT + headers.end;
        self.step = usize::from(size).min(self.buffer.len() - self.next);
        Ok(())
    }

    /// Sums what the sender left unsummed.
    fn finish_checksum(&mut self, unfinished: Option<Unfinished>) -> Result<(), DropReason> {
        let Some(Unfinished { start, offset }) = unfinished else { return Ok(()) };
        let summed =
            self.buffer.get_mut(VNET_BYTES + usize::from(start)..).ok_or(DropReason::TapFrame)?;
        let sum = Sum::default().bytes(summed).complement();
        let at = usize::from(offset);
        let field = summed.get_mut(at..at + 2).ok_or(DropReason::TapFrame)?;
        field.copy_from_slice(&no_zero(sum, offset == 6));
        Ok(())
    }

    /// Seals as much as fits into the batch and tells whether that was all. Where it was not, the
    /// batch must be sent and cleared before the next call.
    pub fn fill(&mut self, batch: &mut Batch) -> Result<bool, DropReason> {
        let left = self.buffer.len() - self.next;
        let segments = left.div_ceil(self.step);
        let last = left - (segments - 1) * self.step;
        let count = batch.room(self.datagram_bytes(self.step), self.datagram_bytes(last), segments);
        if count == 0 {
            return Ok(false);
        }
        let first = self.route.session.claim(count as u64).ok_or(DropReason::Exhausted)?;
        for index in 0..count {
            self.seal_next(batch, first, index, count);
        }
        Ok(self.next == self.buffer.len())
    }

    /// Writes headers before the next payload, over what was sealed already or was the frame's own
    /// headers, and seals both as one.
    fn seal_next(&mut self, batch: &mut Batch, first: u64, index: usize, count: usize) {
        let end = (self.next + self.step).min(self.buffer.len());
        self.write_inner(end);
        self.write_geneve(first, index, count);
        let prefix = &self.prefix.bytes[self.prefix.from..self.prefix.to];
        let start = self.next - prefix.len();
        self.buffer[start..self.next].copy_from_slice(prefix);
        batch.seal(self.route.session, first + index as u64, &self.buffer[start..end]);
        self.next = end;
    }

    /// Makes the inner headers those of the segment that ends at `end`.
    fn write_inner(&mut self, end: usize) {
        let Some(cut) = &mut self.cut else { return };
        let Cut { headers, addresses, flags, started } = *cut;
        let inner = &mut self.prefix.bytes[GENEVE_SEGMENT_BYTES..self.prefix.to];
        if started {
            headers.add_identification(inner, 1);
            // A step is at most 65,535.
            headers.add_sequence(inner, u32::try_from(self.step).unwrap_or_default());
        }
        let payload = &self.buffer[self.next..end];
        let last = end == self.buffer.len();
        headers.set_flags(inner, segment_flags(flags, !started, last));
        headers.set_payload(inner, payload.len());
        match self.segment {
            Some(_) => headers.set_partial(inner, addresses, payload.len()),
            None => headers.set_complete(inner, addresses, payload),
        }
        cut.started = true;
    }

    fn write_geneve(&mut self, first: u64, index: usize, count: usize) {
        if self.route.form == Form::Ip {
            return;
        }
        let [id_low, id_high, ..] = first.to_le_bytes();
        let super_id = u16::from_le_bytes([id_low, id_high]);
        let segment = self.segment.map(|segment| Segment {
            index: index.to_le_bytes()[0],
            count: count.to_le_bytes()[0],
            super_id,
            ..segment
        });
        Geneve::frame(self.vni, segment).write(&mut self.prefix.bytes[self.prefix.from..]);
    }

    fn datagram_bytes(&self, payload: usize) -> usize {
        DATA_HEADER_BYTES + self.prefix.to - self.prefix.from + payload + TAG_BYTES
    }
}

impl Prefix {
    /// A prefix without inner headers, of which the first `skipped` bytes will be left out.
    fn new(form: Form, segment: bool, skipped: usize) -> Self {
        let to = GENEVE_SEGMENT_BYTES + skipped;
        let from = match form {
            Form::Ip => to,
            Form::Ethernet { .. } if segment => 0,
            Form::Ethernet { .. } => GENEVE_SEGMENT_BYTES - GENEVE_BYTES,
        };
        Self { bytes: [0; PREFIX_MAX], from, to }
    }
}

/// The option for a frame whose transport checksum can stay unfinished.
fn segment(vnet: &VnetHeader, headers: Option<Headers>, form: Form) -> Option<Segment> {
    let headers = headers.filter(|_| form == Form::Ethernet { segments: true })?;
    let unfinished = vnet.unfinished.is_some_and(|Unfinished { start, offset }| {
        usize::from(start) == META_BYTES + headers.transport
            && usize::from(offset) == headers.checksum_offset()
    });
    // The headers of each segment are written anew, whatever the super-packet's checksum was.
    (unfinished || vnet.gso.is_some()).then(|| Segment {
        gso_size: vnet.gso.map_or(0, |(_, size)| size),
        index: 0,
        count: 1,
        super_id: 0,
        partial: true,
        udp: headers.udp,
        ecn: vnet.ecn,
        header_bytes: headers.end.to_le_bytes()[0],
    })
}

fn is_ip(frame: &[u8]) -> bool {
    let (header_bytes, version) = match frame.get(12..14) {
        Some([0x08, 0x00]) => (20, 4),
        Some([0x86, 0xdd]) => (40, 6),
        _ => return false,
    };
    frame.len() >= ETHERNET_BYTES + header_bytes && frame[ETHERNET_BYTES] >> 4 == version
}
