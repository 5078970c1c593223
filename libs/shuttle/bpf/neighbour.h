/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* ARP (RFC 826) and neighbour discovery (RFC 4861), answered where the question is asked. */
#ifndef WEFT_NEIGHBOUR_H
#define WEFT_NEIGHBOUR_H

#include "guard.h"
#include "packet.h"

#define ARP_REQUEST bpf_htons(1)
#define ARP_REPLY   bpf_htons(2)

#define NA_SOLICITED bpf_htonl(1u << 30)
#define NA_OVERRIDE  bpf_htonl(1u << 29)

/* What is to be done with a neighbour message. */
enum neighbour_action {
	NEIGHBOUR_ANSWER,
	NEIGHBOUR_ABSORB,
	NEIGHBOUR_UNKNOWN,
	NEIGHBOUR_MALFORMED,
	NEIGHBOUR_SPOOFED,
};

INLINE struct neigh *find_neighbour(u32 vni, u32 half, const u8 *ip)
{
	struct neigh_key key = {.vni = vni, .half = half};

	copy_ip6(key.ip, ip);
	return bpf_map_lookup_elem(&neigh, &key);
}

INLINE void read_ip4(be32 *to, const u8 *from)
{
	const u16 *x = (const u16 *)from;

	*to = x[0] | (u32)x[1] << 16;
}

INLINE void write_ip4(u8 *to, be32 ip)
{
	u16 *x = (u16 *)to;

	x[0] = ip;
	x[1] = ip >> 16;
}

/* Looks at an ARP message of an endpoint with MAC `mac`, and makes a request's answer of it in
 * place. */
INLINE enum neighbour_action handle_arp(struct __sk_buff *skb, struct headers *h, u32 vni,
					const struct identity *who, const u8 *mac)
{
	struct arp *arp = &h->arp;
	struct neigh *neighbour;
	be32 sender_ip, target_ip;
	u8 mapped[16] __attribute__((aligned(4)));

	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_length != 6 || arp->protocol_length != 4 ||
	    (arp->operation != ARP_REQUEST && arp->operation != ARP_REPLY))
		return NEIGHBOUR_MALFORMED;
	read_ip4(&sender_ip, arp->sender_ip);
	read_ip4(&target_ip, arp->target_ip);
	/* Without a sender address it is a probe (RFC 5227). */
	if (!is_same_mac(arp->sender_mac, mac) || (sender_ip && !may_use_ip4(who, sender_ip)))
		return NEIGHBOUR_SPOOFED;
	/* Everyone's questions are answered from the tables, so nobody needs what it says of
	 * itself. */
	if (arp->operation == ARP_REPLY || target_ip == sender_ip)
		return NEIGHBOUR_ABSORB;
	map_ip4(mapped, target_ip);
	neighbour = find_neighbour(vni, who->half, mapped);
	if (!neighbour)
		return NEIGHBOUR_UNKNOWN;
	if (is_same_mac(neighbour->mac, mac))
		return NEIGHBOUR_ABSORB;
	copy_mac(h->eth.target, mac);
	copy_mac(h->eth.source, neighbour->mac);
	arp->operation = ARP_REPLY;
	copy_mac(arp->target_mac, mac);
	write_ip4(arp->target_ip, sender_ip);
	copy_mac(arp->sender_mac, neighbour->mac);
	write_ip4(arp->sender_ip, target_ip);
	bpf_skb_store_bytes(skb, 0, &h->eth, ETH_BYTES + sizeof(*arp), 0);
	return NEIGHBOUR_ANSWER;
}

/* Writes the advertisement that answers a solicitation for `nd->target` over the frame. */
INLINE bool advertise(struct __sk_buff *skb, struct headers *h, struct nd *nd, const u8 *mac)
{
	/* Checksummed in front of the message (RFC 8200 8.1); addresses go in from the header. */
	be32 pseudo[2] = {bpf_htonl(sizeof(*nd)), bpf_htonl(IPPROTO_ICMPV6)};
	bool is_probe = is_unspecified(&h->ip6.saddr);
	long sum;

	if (bpf_skb_change_tail(skb, L4_OFFSET6 + sizeof(*nd), 0))
		return false;
	if (is_probe) {
		/* All nodes, ff02::1: the asker has no address yet (RFC 4861 7.2.4). */
		u8 all_nodes[6] __attribute__((aligned(2))) = {0x33, 0x33, 0, 0, 0, 1};

		copy_mac(h->eth.target, all_nodes);
		h->ip6.daddr.s6_addr32[0] = bpf_htonl(0xff020000);
		h->ip6.daddr.s6_addr32[1] = 0;
		h->ip6.daddr.s6_addr32[2] = 0;
		h->ip6.daddr.s6_addr32[3] = bpf_htonl(1);
	} else {
		copy_mac(h->eth.target, h->eth.source);
		copy_ip6((u8 *)&h->ip6.daddr, &h->ip6.saddr);
	}
	copy_mac(h->eth.source, mac);
	copy_ip6((u8 *)&h->ip6.saddr, &nd->target);
	h->ip6.payload_len = bpf_htons(sizeof(*nd));
	h->ip6.hop_limit = 255;

	nd->type = ND_NEIGHBOUR_ADVERT;
	nd->code = 0;
	nd->checksum = 0;
	nd->flags = is_probe ? NA_OVERRIDE : NA_OVERRIDE | NA_SOLICITED;
	nd->option_type = ND_OPTION_TARGET_MAC;
	nd->option_words = 1;
	copy_mac(nd->option_mac, mac);
	sum = bpf_csum_diff(0, 0, (be32 *)&h->ip6.saddr, 2 * sizeof(struct in6_addr), 0);
	sum = bpf_csum_diff(0, 0, pseudo, sizeof(pseudo), sum);
	sum = bpf_csum_diff(0, 0, (be32 *)nd, sizeof(*nd), sum);
	nd->checksum = fold(sum);
	bpf_skb_store_bytes(skb, 0, &h->eth, L4_OFFSET6, BPF_F_RECOMPUTE_CSUM);
	bpf_skb_store_bytes(skb, L4_OFFSET6, nd, sizeof(*nd), BPF_F_RECOMPUTE_CSUM);
	return true;
}

/* The same for a solicitation or an advertisement of IPv6. */
INLINE enum neighbour_action handle_nd(struct __sk_buff *skb, struct headers *h, u32 vni,
				       const struct identity *who, const u8 *mac)
{
	struct nd nd = {};
	struct neigh *neighbour;
	u8 option_type;

	/* With the option where there is one: a probe has none. */
	if (bpf_skb_load_bytes(skb, L4_OFFSET6, &nd, sizeof(nd)) &&
	    bpf_skb_load_bytes(skb, L4_OFFSET6, &nd, ND_BYTES_MIN))
		return NEIGHBOUR_MALFORMED;
	/* RFC 4861 7.1: a message from elsewhere than the link has passed a router. */
	if (h->ip6.hop_limit != 255 || nd.code)
		return NEIGHBOUR_MALFORMED;
	/* A second MAC option cannot hide behind the first: nobody else ever gets to see the
	 * message. */
	option_type =
		nd.type == ND_NEIGHBOUR_SOLICITATION ? ND_OPTION_SOURCE_MAC : ND_OPTION_TARGET_MAC;
	if (nd.option_type == option_type && !is_same_mac(nd.option_mac, mac))
		return NEIGHBOUR_SPOOFED;
	if (nd.type == ND_NEIGHBOUR_ADVERT)
		return is_link_local(&nd.target) || may_use_ip6(who, &nd.target)
			       ? NEIGHBOUR_ABSORB
			       : NEIGHBOUR_SPOOFED;
	neighbour = find_neighbour(vni, who->half, (const u8 *)&nd.target);
	if (!neighbour) {
		/* A probe for a link-local address that only the endpoint itself can have. */
		if (is_unspecified(&h->ip6.saddr) && is_link_local(&nd.target))
			return NEIGHBOUR_ABSORB;
		return NEIGHBOUR_UNKNOWN;
	}
	if (is_same_mac(neighbour->mac, mac))
		return NEIGHBOUR_ABSORB;
	return advertise(skb, h, &nd, neighbour->mac) ? NEIGHBOUR_ANSWER : NEIGHBOUR_MALFORMED;
}

#endif
