/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The sources that an endpoint may use: at its port, and again at the host to which its frames
 * come. */
#ifndef WEFT_GUARD_H
#define WEFT_GUARD_H

#include "packet.h"

#define ND_ROUTER_SOLICITATION	  133
#define ND_ROUTER_ADVERTISEMENT	  134
#define ND_NEIGHBOUR_SOLICITATION 135
#define ND_NEIGHBOUR_ADVERT	  136
#define ND_REDIRECT		  137

#define ND_OPTION_SOURCE_MAC 1
#define ND_OPTION_TARGET_MAC 2

/* A neighbour solicitation or advertisement with its first option (RFC 4861 4.3, 4.4). */
struct nd {
	u8 type;
	u8 code;
	be16 checksum;
	be32 flags;
	struct in6_addr target;
	u8 option_type;
	u8 option_words;
	u8 option_mac[6];
};

_Static_assert(sizeof(struct nd) == 32, "nd");

/* RFC 4861: without options. */
#define ND_BYTES_MIN 24

/* An address in `guard` is allowed; all 64 + 128 bits of the key count. */
INLINE bool is_in_guard(u32 endpoint_id, u32 half, const u8 *ip)
{
	struct guard_key key = {.prefix_bits = 64 + 128, .half = half, .endpoint_id = endpoint_id};

	copy_ip6(key.ip, ip);
	return bpf_map_lookup_elem(&guard, &key);
}

/* What an endpoint may send from, from its port's row or its row in `fdb`. */
struct identity {
	u32 endpoint_id;
	u32 half;
	be32 ip4;
	const u8 *ip6;
	bool has_more_sources;
};

INLINE bool may_use_ip4(const struct identity *who, be32 ip)
{
	u8 mapped[16] __attribute__((aligned(4)));

	if (ip && ip == who->ip4)
		return true;
	if (!who->has_more_sources)
		return false;
	map_ip4(mapped, ip);
	return is_in_guard(who->endpoint_id, who->half, mapped);
}

/* An address that is not link-local. */
INLINE bool may_use_ip6(const struct identity *who, const struct in6_addr *ip)
{
	if (is_same_ip6(ip, who->ip6))
		return true;
	return who->has_more_sources && is_in_guard(who->endpoint_id, who->half, (const u8 *)ip);
}

/* Link-local addresses are free: they belong to the MAC, which is checked. `::` looks for its own
 * duplicates. */
INLINE bool may_send_from_ip6(const struct identity *who, const struct headers *h)
{
	if (is_unspecified(&h->ip6.saddr))
		return is_group(h->eth.target);
	return is_link_local(&h->ip6.saddr) || may_use_ip6(who, &h->ip6.saddr);
}

/*
 * ICMPv6 type behind the fixed header, 0 for anything else. Hosts take neighbour messages behind
 * extension headers too, where the guard would have to follow them; nobody sends them so, and -1
 * says to drop the packet.
 */
static __noinline int icmp6_type(struct __sk_buff *skb, u32 next_header)
{
	u8 extension[2], type;
	u32 offset = L4_OFFSET6;
	int i;

	for (i = 0; i < 6; i++) {
		if (next_header == IPPROTO_ICMPV6) {
			if (bpf_skb_load_bytes(skb, offset, &type, 1))
				return -1;
			if (i && type >= ND_ROUTER_SOLICITATION && type <= ND_REDIRECT)
				return -1;
			return type;
		}
		/* What follows a fragment header is no neighbour message to a host (RFC 6980). */
		if (next_header != IPPROTO_HOPOPTS && next_header != IPPROTO_ROUTING &&
		    next_header != IPPROTO_DSTOPTS)
			return 0;
		if (bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)))
			return -1;
		next_header = extension[0];
		offset += (extension[1] + 1) * 8;
	}
	return -1;
}

INLINE bool may_carry_icmp6(u8 next_header)
{
	return next_header == IPPROTO_ICMPV6 || next_header == IPPROTO_HOPOPTS ||
	       next_header == IPPROTO_ROUTING || next_header == IPPROTO_DSTOPTS;
}

#endif
