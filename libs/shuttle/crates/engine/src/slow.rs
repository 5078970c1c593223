//! Frames of the slow TAP: `[virtio_net_hdr_v1 12][Ethernet 14][slow_meta 16][payload]`, both ways.

use weft_abi::{DropReason, Plain, SlowMeta};

use crate::packet::{ETHERNET_LENGTH, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac, Packet};

/// `struct virtio_net_hdr_v1` of `linux/virtio_net.h`.
pub(crate) const VNET_HEADER_LENGTH: usize = 12;
const META: usize = VNET_HEADER_LENGTH + ETHERNET_LENGTH;
/// Bytes before the payload.
pub(crate) const PAYLOAD: usize = META + size_of::<SlowMeta>();

/// A frame as the slow TAP gave it, kept whole so that it can go back as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowFrame(Box<[u8]>);

impl SlowFrame {
    /// `None` when the bytes are no frame of the programs'.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= PAYLOAD && bytes[META] == weft_abi::SLOW_MAGIC).then(|| Self(bytes.into()))
    }

    /// A frame of the shuttle's own for the port of `to`.
    pub fn to_source(ethernet: &[u8], to: &SlowMeta) -> Option<Self> {
        let (header, payload) = ethernet.split_at_checked(ETHERNET_LENGTH)?;
        let ethertype = [header[12], header[13]];
        let meta = SlowMeta { purpose: weft_abi::SLOW_TO_SOURCE, reason: 0, ethertype, ..*to };
        // The programs strip the metadata by a helper that takes nothing but IP.
        let front =
            if ethertype == ETHERTYPE_IPV6.to_be_bytes() { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        let vnet_header = [0; VNET_HEADER_LENGTH];
        let parts =
            [&vnet_header[..], &header[..12], &front.to_be_bytes(), meta.as_bytes(), payload];
        Some(Self(parts.concat().into()))
    }

    /// What the programs say about it.
    pub fn meta(&self) -> SlowMeta {
        SlowMeta::from_bytes(&self.0[META..PAYLOAD])
    }

    /// The packet that the port sent.
    pub fn packet(&self) -> Packet<'_> {
        let mac = |at: usize| Mac(std::array::from_fn(|byte| self.0[at + byte]));
        let ethertype = u16::from_be_bytes(self.meta().ethertype);
        Packet::from_parts(
            mac(VNET_HEADER_LENGTH),
            mac(VNET_HEADER_LENGTH + 6),
            ethertype,
            &self.0[PAYLOAD..],
        )
    }

    /// To walk the tables again.
    #[must_use]
    pub fn into_resent(mut self) -> Self {
        self.set_meta(SlowMeta { purpose: weft_abi::SLOW_RESEND, ..self.meta() });
        self
    }

    /// To be counted as dropped, which needs the payload no longer.
    #[must_use]
    pub fn into_dropped(self, reason: DropReason) -> Self {
        let mut short = Self(self.0[..PAYLOAD].into());
        // No segments and no checksum: there is nothing left to which they could apply.
        short.0[..VNET_HEADER_LENGTH].fill(0);
        short.set_meta(SlowMeta {
            purpose: weft_abi::SLOW_DROP,
            reason: reason as u8,
            ..self.meta()
        });
        short
    }

    /// As it is written to the slow TAP.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn set_meta(&mut self, meta: SlowMeta) {
        self.0[META..PAYLOAD].copy_from_slice(meta.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ETHERTYPE_ARP;
    use crate::sample;

    #[test]
    fn the_packet_is_read_around_the_metadata() {
        let frame = sample::slow_frame(weft_abi::SLOW_NEIGHBOUR, &sample::arp_request());
        let packet = frame.packet();
        assert_eq!((packet.ethertype, packet.source_mac), (ETHERTYPE_ARP, sample::WEB_MAC));
        assert_eq!(packet.sought_neighbour(), Some(sample::API_IPV4.into()));
    }

    #[test]
    fn a_resent_frame_differs_in_its_purpose_only() {
        let frame = sample::slow_frame(weft_abi::SLOW_MISS, &sample::udp4());
        let resent = frame.clone().into_resent();
        assert_eq!(resent.meta(), SlowMeta { purpose: weft_abi::SLOW_RESEND, ..frame.meta() });
        assert_eq!(resent.as_bytes()[PAYLOAD..], frame.as_bytes()[PAYLOAD..]);
        assert_eq!(resent.as_bytes()[..META], frame.as_bytes()[..META]);
    }

    #[test]
    fn a_dropped_frame_keeps_its_port_and_names_the_reason() {
        let frame = sample::slow_frame(weft_abi::SLOW_MISS, &sample::udp4());
        let dropped = frame.clone().into_dropped(DropReason::Unresolved);
        assert_eq!(dropped.as_bytes().len(), PAYLOAD);
        assert_eq!(dropped.meta().reason, DropReason::Unresolved as u8);
        assert_eq!(dropped.meta().endpoint_id, frame.meta().endpoint_id);
    }

    #[test]
    fn bytes_without_the_programs_mark_are_no_slow_frame() {
        let good = sample::slow_frame(weft_abi::SLOW_MISS, &sample::udp4());
        assert_eq!(SlowFrame::new(&good.as_bytes()[..PAYLOAD - 1]), None);
        let mut unmarked = good.as_bytes().to_vec();
        unmarked[META] = 0;
        assert_eq!(SlowFrame::new(&unmarked), None);
    }
}
