/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Frames between hosts, in VXLAN (RFC 7348). The header is built and taken off here where that is
 * right, and by the kernel's VXLAN device in every other case.
 */
#ifndef WEFT_TUNNEL_H
#define WEFT_TUNNEL_H

#include "packet.h"

struct vxlan {
	be32 flags;
	be32 vni;
};

#define VXLAN_FLAG_VNI bpf_htonl(0x08000000)

/* What stands in front of the payload's network header on the wire. */
struct outer {
	u16 align;
	struct eth eth;
	struct iphdr ip;
	struct udphdr udp;
	struct vxlan vxlan;
	struct eth inner;
} __attribute__((aligned(4)));

/* IP, UDP and VXLAN header and the inner Ethernet header. */
#define ROOM 50

_Static_assert(__builtin_offsetof(struct outer, inner) + sizeof(struct eth) -
			       __builtin_offsetof(struct outer, eth) ==
		       ETH_BYTES + ROOM,
	       "outer");

#define ENCAP_FLAGS                                                                               \
	(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | \
	 BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2(sizeof(struct eth)) |              \
	 BPF_F_ADJ_ROOM_ENCAP_L2_ETH)

#define TUNNEL_TTL 64

/* Prepares a frame for the VXLAN device. */
INLINE long set_tunnel(struct __sk_buff *skb, const struct peer *peer, u32 vni)
{
	struct bpf_tunnel_key key = {.tunnel_id = vni, .tunnel_ttl = TUNNEL_TTL};

	if (peer->flags & PEER_IP6) {
		copy_ip6((u8 *)key.remote_ipv6, peer->remote_ip);
		copy_ip6((u8 *)key.local_ipv6, peer->local_ip);
		return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6);
	}
	key.remote_ipv4 = bpf_ntohl(*(be32 *)(peer->remote_ip + 12));
	key.local_ipv4 = bpf_ntohl(*(be32 *)(peer->local_ip + 12));
	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key),
				      BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT);
}

INLINE u32 fold(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum & 0xffff;
}

/* Builds the header and sends the frame; false leaves it unchanged. */
INLINE bool encapsulate(struct __sk_buff *skb, const struct headers *h, const struct peer *peer,
			u32 vni, u32 vxlan_port)
{
	struct outer outer;
	u32 hash, length, sum;

	/* The outer lengths have 16 bits; the device cuts what does not fit. */
	if (!is_ip(h) || skb->len + ROOM - ETH_BYTES > 0xffff)
		return false;
	hash = bpf_get_hash_recalc(skb);
	/* Refused with -EALREADY for what is encapsulated already, by the endpoint or before it
	 * routed the packet. */
	if (bpf_skb_adjust_room(skb, ROOM, BPF_ADJ_ROOM_MAC, ENCAP_FLAGS))
		return false;
	length = skb->len - ETH_BYTES;

	copy_mac(outer.eth.target, peer->target_mac);
	copy_mac(outer.eth.source, peer->source_mac);
	outer.eth.type = bpf_htons(ETH_P_IP);
	*(u16 *)&outer.ip = bpf_htons(0x4500);
	outer.ip.tot_len = bpf_htons(length);
	outer.ip.id = 0;
	outer.ip.frag_off = bpf_htons(0x4000);
	outer.ip.ttl = TUNNEL_TTL;
	outer.ip.protocol = IPPROTO_UDP;
	outer.ip.saddr = *(be32 *)(peer->local_ip + 12);
	outer.ip.daddr = *(be32 *)(peer->remote_ip + 12);
	sum = bpf_htons(0x4500) + outer.ip.tot_len + bpf_htons(0x4000) +
	      bpf_htons(TUNNEL_TTL << 8 | IPPROTO_UDP) + (outer.ip.saddr & 0xffff) +
	      (outer.ip.saddr >> 16) + (outer.ip.daddr & 0xffff) + (outer.ip.daddr >> 16);
	outer.ip.check = fold(sum);
	/* From the dynamic ports (RFC 7348 5), so that routers spread the flows. */
	outer.udp.source = bpf_htons(0xc000 | ((hash ^ hash >> 16) & 0x3fff));
	outer.udp.dest = bpf_htons(vxlan_port);
	outer.udp.len = bpf_htons(length - sizeof(struct iphdr));
	outer.udp.check = 0;
	outer.vxlan.flags = VXLAN_FLAG_VNI;
	outer.vxlan.vni = bpf_htonl(vni << 8);
	outer.inner = h->eth;
	/* Cannot fail: the room has just been made. */
	bpf_skb_store_bytes(skb, 0, &outer.eth, ETH_BYTES + ROOM, 0);
	return true;
}

#endif
