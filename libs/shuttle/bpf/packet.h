/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Headers of a frame, and one run of a program over it.
 *
 * Headers are copied to the stack and back by helpers. The verifier then has no packet pointers to
 * follow, so the programs load without CAP_PERFMON, and the kernel puts no copy-on-write prologue
 * in front of them.
 */
#ifndef WEFT_PACKET_H
#define WEFT_PACKET_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"
#include "maps.h"
#include "reasons.h"

#define INLINE static __always_inline

/* The Linux 6.18 values; older headers lack them. */
#define ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7)
#define ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)

#define PACKET_HOST 0

#define HEARTBEAT_FRESH_NS 2000000000ULL
#define NS_PER_S	   1000000000ULL

struct eth {
	u8 target[6];
	u8 source[6];
	be16 type;
};

struct arp {
	be16 hardware;
	be16 protocol;
	u8 hardware_length;
	u8 protocol_length;
	be16 operation;
	u8 sender_mac[6];
	u8 sender_ip[4];
	u8 target_mac[6];
	u8 target_ip[4];
};

/* The front of a frame. `align` puts the network header and its addresses where whole words can be
 * read. */
struct headers {
	u16 align;
	struct eth eth;
	union {
		struct iphdr ip4;
		struct ipv6hdr ip6;
		struct arp arp;
	};
} __attribute__((aligned(8)));

#define ETH_BYTES  ((u32)sizeof(struct eth))
#define IP4_OFFSET ETH_BYTES
#define L4_OFFSET6 (ETH_BYTES + (u32)sizeof(struct ipv6hdr))

_Static_assert(sizeof(struct eth) == 14, "eth");
_Static_assert(sizeof(struct arp) == 28, "arp");
_Static_assert(__builtin_offsetof(struct headers, ip4) == 16, "headers");

/* What a run knows of its source. */
struct run {
	struct config *config;
	struct counters *counters;
	u64 now_ns;
	u32 half;
	/* At ports: */
	u32 ifindex;
	struct port *port;
	/* The frame was held already, so it is not held again. */
	bool is_resent;
};

/*
 * What was written to `cb`, which the verifier knows nothing of: an index from there takes one form
 * on every path, as it must without CAP_PERFMON.
 */
INLINE u32 read_back(const struct __sk_buff *skb, u32 slot)
{
	return *(const volatile u32 *)&skb->cb[slot];
}

/*
 * Every run ends in one of these two. Verdict, reason and target stay in `cb` for BPF_PROG_TEST_RUN
 * to read.
 */
INLINE void finish(struct __sk_buff *skb, struct counters *counters, u32 verdict, u32 target)
{
	skb->cb[0] = verdict;
	skb->cb[1] = DROP_none;
	skb->cb[2] = target;
	counters->verdicts[read_back(skb, 0) & (VERDICT_MAX - 1)]++;
}

INLINE int drop(struct __sk_buff *skb, struct counters *counters, u32 reason)
{
	skb->cb[0] = VERDICT_dropped;
	skb->cb[1] = reason & (DROP_MAX - 1);
	skb->cb[2] = 0;
	counters->drops[read_back(skb, 1) & (DROP_MAX - 1)]++;
	return TC_ACT_SHOT;
}

INLINE struct counters *counters_of(u32 slot)
{
	return bpf_map_lookup_elem(&port_counters, &slot);
}

/* Fills `run`; false while the shuttle has not set the maps up. */
INLINE bool start(struct run *run, u32 slot)
{
	u32 zero = 0;

	run->config = bpf_map_lookup_elem(&config, &zero);
	run->counters = counters_of(slot);
	if (!run->config || !run->counters)
		return false;
	run->half = run->config->active & 1;
	return true;
}

/* The shuttle is alive, so what it keeps current is. */
INLINE bool is_fresh(const struct run *run)
{
	u64 beat = run->config->heartbeat_ns;

	/* The coarse clock may be behind the shuttle's. */
	return run->now_ns < beat + HEARTBEAT_FRESH_NS;
}

INLINE bool spend(struct budget *budget, u64 now_ns)
{
	u64 paid_until = budget->paid_until_ns;

	if (paid_until < now_ns)
		paid_until = now_ns;
	if (paid_until - now_ns > budget->depth_ns)
		return false;
	budget->paid_until_ns = paid_until + budget->interval_ns;
	return true;
}

/* Copies the headers at an offset into the frame; false where they are shorter than the EtherType
 * says. */
INLINE bool load_headers(struct __sk_buff *skb, u32 offset, struct headers *h)
{
	/* The longest first: everything but small ARP and ICMP is that long. */
	if (!bpf_skb_load_bytes(skb, offset, &h->eth, ETH_BYTES + sizeof(struct ipv6hdr)))
		return true;
	__builtin_memset(h, 0, sizeof(*h));
	if (bpf_skb_load_bytes(skb, offset, &h->eth, ETH_BYTES))
		return false;
	if (h->eth.type == bpf_htons(ETH_P_ARP))
		return !bpf_skb_load_bytes(skb, offset + ETH_BYTES, &h->arp, sizeof(h->arp));
	if (h->eth.type == bpf_htons(ETH_P_IP))
		return !bpf_skb_load_bytes(skb, offset + ETH_BYTES, &h->ip4, sizeof(h->ip4));
	return h->eth.type != bpf_htons(ETH_P_IPV6);
}

INLINE bool is_tagged(const struct __sk_buff *skb, const struct headers *h)
{
	return skb->vlan_present || h->eth.type == bpf_htons(ETH_P_8021Q) ||
	       h->eth.type == bpf_htons(ETH_P_8021AD);
}

INLINE bool is_ip(const struct headers *h)
{
	return h->eth.type == bpf_htons(ETH_P_IP) || h->eth.type == bpf_htons(ETH_P_IPV6);
}

/* The version and length fields say what the EtherType says. */
INLINE bool is_well_formed(const struct headers *h)
{
	if (h->eth.type == bpf_htons(ETH_P_IP))
		return h->ip4.version == 4 && h->ip4.ihl >= 5;
	if (h->eth.type == bpf_htons(ETH_P_IPV6))
		return h->ip6.version == 6;
	return true;
}

INLINE bool is_same_mac(const u8 *a, const u8 *b)
{
	const u16 *x = (const u16 *)a, *y = (const u16 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]));
}

INLINE void copy_mac(u8 *to, const u8 *from)
{
	u16 *x = (u16 *)to;
	const u16 *y = (const u16 *)from;

	x[0] = y[0];
	x[1] = y[1];
	x[2] = y[2];
}

INLINE bool is_group(const u8 *mac)
{
	return mac[0] & 1;
}

/* 01-80-C2-00-00-0x is never forwarded (IEEE 802.1Q, table 8-1). */
INLINE bool is_control(const u8 *mac)
{
	const u16 *x = (const u16 *)mac;

	return x[0] == bpf_htons(0x0180) && x[1] == bpf_htons(0xc200) &&
	       (x[2] & bpf_htons(0xfff0)) == 0;
}

INLINE bool is_same_ip6(const void *a, const void *b)
{
	const u64 *x = a, *y = b;

	return x[0] == y[0] && x[1] == y[1];
}

INLINE bool is_unspecified(const struct in6_addr *ip)
{
	const u64 *x = (const u64 *)ip;

	return !(x[0] | x[1]);
}

INLINE bool is_link_local(const struct in6_addr *ip)
{
	return (ip->s6_addr16[0] & bpf_htons(0xffc0)) == bpf_htons(0xfe80);
}

INLINE void map_ip4(u8 *to, be32 ip)
{
	u32 *x = (u32 *)to;

	x[0] = 0;
	x[1] = 0;
	x[2] = bpf_htonl(0xffff);
	x[3] = ip;
}

INLINE void copy_ip6(u8 *to, const void *from)
{
	u32 *x = (u32 *)to;
	const u32 *y = from;

	x[0] = y[0];
	x[1] = y[1];
	x[2] = y[2];
	x[3] = y[3];
}

/*
 * Bytes of the IP packet as it will be on the wire: of a super-packet, one of its segments. What is
 * no IP counts as its payload.
 */
INLINE u32 wire_length(struct __sk_buff *skb, const struct headers *h)
{
	u32 l4_offset, l4_bytes;
	u8 protocol, data_offset;

	if (!skb->gso_size)
		return skb->len - ETH_BYTES;
	if (h->eth.type == bpf_htons(ETH_P_IP)) {
		l4_offset = ETH_BYTES + h->ip4.ihl * 4;
		protocol = h->ip4.protocol;
	} else {
		l4_offset = L4_OFFSET6;
		protocol = h->ip6.nexthdr;
	}
	l4_bytes = sizeof(struct udphdr);
	/* The upper half of the byte 12 into a TCP header is its length in words. */
	if (protocol == IPPROTO_TCP && !bpf_skb_load_bytes(skb, l4_offset + 12, &data_offset, 1))
		l4_bytes = (data_offset >> 4) * 4;
	return l4_offset - ETH_BYTES + l4_bytes + skb->gso_size;
}

/* Another host as this carrier (VIA_HOST, VIA_SEALED) reaches it. */
INLINE struct peer *find_peer(u32 host_id, u32 via)
{
	struct peer_key key = {.host_id = host_id, .via = via};

	return bpf_map_lookup_elem(&peers, &key);
}

INLINE struct fdb *find_mac(u32 vni, u32 half, const u8 *mac)
{
	struct fdb_key key = {.vni = vni, .half = half};

	copy_mac(key.mac, mac);
	return bpf_map_lookup_elem(&fdb, &key);
}

#endif
