/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the programs and the shuttle share: map keys and values, and the headers on its two TAPs.
 * This file decides the layouts; the Rust crate `abi` mirrors them and a test compares the two by
 * BTF.
 *
 * Numbers are in host order except `be32`/`be16` and addresses, which are in network order. An IPv4
 * address in a 16-byte field is IPv4-mapped (::ffff:a.b.c.d), so it meets no IPv6 address.
 */
#ifndef WEFT_ABI_H
#define WEFT_ABI_H

#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __be16 be16;
typedef __be32 be32;

/* Raised when a map's layout or meaning changes; part of the pins' path. */
#define WEFT_ABI 2

/* Verdicts and drop reasons have room to grow without a new layout. Powers of two, so that masks
 * bound an index. */
#define VERDICT_MAX 16
#define DROP_MAX    64

/*
 * Ports and hosts to which one network's broadcasts go. A program copies to all of them in one run,
 * which is why there is a limit.
 */
#define REPLICATION_MAX 256

/*
 * The tables that describe the networks (`fdb`, `neigh`, `guard`, `replication`) exist twice, told
 * apart by `half` in the key. `active` names the half in force: one 32-bit store swaps all of them.
 */
struct config {
	u32 abi;
	u32 active;
	/* A flow is valid while it has this generation. */
	u32 generation;
	/* UDP port, host order. */
	u32 vxlan_port;
	/* CLOCK_MONOTONIC of the shuttle's last sign of life: what only it keeps current is used
	 * while fresh. */
	u64 heartbeat_ns;
	u32 vxlan_ifindex;
	u32 slow_ifindex;
	u32 seal_ifindex;
	u32 pad;
};

/*
 * A budget by the generic cell rate algorithm: a frame costs `interval_ns` and at most `depth_ns`
 * may be owed. Updates of two CPUs may overtake each other, which lets a few frames more through.
 */
struct budget {
	u64 paid_until_ns;
	u32 interval_ns;
	u32 depth_ns;
};

/*
 * A WireGuard client is a port without a device. What stands in for its ifindex, everywhere, is its
 * endpoint's id with this bit: no device has it. Ids of hosts and endpoints are below it.
 */
#define CLIENT_BIT (1u << 31)

/* Sources beside `ip4` and `ip6` are looked up in `guard`. */
#define PORT_MORE_SOURCES (1 << 0)
/* The endpoint routes: it may send router advertisements. */
#define PORT_ROUTES	  (1 << 1)

struct port {
	u32 endpoint_id;
	u32 vni;
	u8 mac[6];
	/* Largest IP packet; of a client also towards it. */
	u16 mtu;
	u16 flags;
	/* Row of `port_counters`. */
	u16 slot;
	/* Zero for none. */
	be32 ip4;
	u8 ip6[16];
	struct budget miss;
	struct budget error;
	struct budget replicate;
};

/* How a target is reached. In `fdb` VIA_HOST is any other host, whatever the carrier. */
#define VIA_PEER   1 /* a port whose other end is in another namespace: bpf_redirect_peer(target) */
#define VIA_DEVICE 2 /* a TAP, or a port in this namespace: bpf_redirect(target) */
#define VIA_HOST   3 /* another host, in VXLAN: target is its id */
#define VIA_DROP   4 /* nothing: drop with `reason` */
#define VIA_SEALED 5 /* another host, by the shuttle, which seals: target is its id */
#define VIA_CLIENT 6 /* a WireGuard client here, by the shuttle: target has CLIENT_BIT */

struct flow_key {
	u32 source_endpoint_id;
	u8 target_mac[6];
	u16 pad;
};

struct flow {
	u32 generation;
	u32 target_endpoint_id;
	/* ifindex, what stands in for one, or host id, by `via`. */
	u32 target;
	u8 via;
	u8 reason;
	/* Of the target, if it is a port here: its row of `port_counters`. */
	u16 slot;
	/* CLOCK_MONOTONIC of the last packet; written once a second at most, to keep the line
	 * clean. */
	u32 last_used_s;
};

struct fdb_key {
	u32 vni;
	u8 mac[6];
	u16 half;
};

/* The same for an endpoint, wherever it is. */
#define FDB_MORE_SOURCES (1 << 0)
#define FDB_ROUTES	 (1 << 1)
/* Of one at another host (`via` is VIA_HOST): by which carriers that host may bring its frames. */
#define FDB_BY_VXLAN	 (1 << 2)
#define FDB_BY_SEALED	 (1 << 3)

struct fdb {
	u32 endpoint_id;
	u32 target;
	u8 via;
	u8 flags;
	/* If it is a port here: its row of `port_counters`. */
	u16 slot;
	be32 ip4;
	u8 ip6[16];
};

struct neigh_key {
	u32 vni;
	u32 half;
	u8 ip[16];
};

struct neigh {
	u8 mac[6];
	u16 pad;
};

/* Longest-prefix match over `half`, `endpoint_id` (both whole) and the address. */
struct guard_key {
	u32 prefix_bits;
	u32 half;
	u32 endpoint_id;
	u8 ip[16];
};

struct guard {
	u32 allowed;
};

struct replication_key {
	u32 vni;
	u32 half;
};

/* ifindexes of the network's ports here, then ids of the other hosts that get its broadcasts in
 * VXLAN, then of those that get them sealed. */
struct replication {
	u32 port_count;
	u32 host_count;
	u32 sealed_count;
	u32 targets[REPLICATION_MAX];
};

/* A plain VXLAN device without a shuttle: it asks for its neighbours itself. */
#define REMOTE_FOREIGN (1 << 0)

struct remote_key {
	u8 ip[16];
};

struct remote {
	u32 host_id;
	u32 flags;
	/* The address of this host that it sends to. */
	u8 local_ip[16];
};

/*
 * The Ethernet header of the path to the host is current and both addresses are IPv4: the program
 * builds the outer headers. Else the VXLAN device does, by the kernel's own route and neighbour
 * tables.
 */
#define PEER_RESOLVED (1 << 0)
#define PEER_IP6      (1 << 1)

/* A host may have a row for each carrier. */
struct peer_key {
	u32 host_id;
	/* VIA_HOST or VIA_SEALED. */
	u32 via;
};

/* Of a sealed one `mtu` alone counts: the shuttle knows where it is. */
struct peer {
	u8 remote_ip[16];
	u8 local_ip[16];
	u32 ifindex;
	/* Largest IP packet of a network that fits the path. */
	u16 mtu;
	u16 flags;
	u8 target_mac[6];
	u8 source_mac[6];
};

/* Per CPU and slot; slot 0 is the host: frames whose port is not known. */
struct counters {
	u64 received_packets;
	u64 received_bytes;
	u64 sent_packets;
	u64 sent_bytes;
	u64 verdicts[VERDICT_MAX];
	u64 drops[DROP_MAX];
};

/* Why the shuttle gets a frame (1..) and what it wants done with one that it gives (16..). */
#define SLOW_MISS      1  /* no flow for this source and target */
#define SLOW_NEIGHBOUR 2  /* ARP request or solicitation for an address without a neighbour */
#define SLOW_MTU       3  /* larger than `mtu`: an error goes to the source */
#define SLOW_RESEND    16 /* walk the tables again, with what is there now */
#define SLOW_TO_SOURCE 17 /* a frame of the shuttle's own for the port */
#define SLOW_DROP      18 /* count `reason` at the port; the rest of the frame may be cut off */

#define SLOW_MAGIC 0x57

/*
 * On the slow TAP a frame is [Ethernet header 14][this][payload], both ways. The Ethernet header
 * says IPv6 for an IPv6 payload and IPv4 for any other, because bpf_skb_adjust_room() takes nothing
 * else away.
 */
struct slow_meta {
	u8 magic;
	u8 purpose;
	u8 reason;
	u8 pad;
	u32 endpoint_id;
	u32 ifindex;
	/* EtherType of the payload. */
	be16 ethertype;
	/* SLOW_MTU: the largest IP packet that fits. */
	u16 mtu;
};

#define SEAL_MAGIC 0x53

/*
 * On the TAP of what is sealed a frame is [this][Ethernet frame] to the shuttle, and
 * [Ethernet header 14][this][payload] from it, where the Ethernet header says IPv6 for an IPv6
 * payload and IPv4 for any other, as on the slow TAP.
 */
struct seal_meta {
	u8 magic;
	u8 flags;
	/* EtherType of the payload. */
	be16 ethertype;
	/* The other host, or the client, by CLIENT_BIT: to which, or from which. */
	u32 host_id;
	/* Of no meaning from a client: its port says it, as it says both MACs. */
	u32 vni;
	u32 reserved;
};

#define ASSERT_SIZE(type, size) _Static_assert(sizeof(struct type) == (size), #type)
ASSERT_SIZE(config, 40);
ASSERT_SIZE(budget, 16);
ASSERT_SIZE(port, 88);
ASSERT_SIZE(flow_key, 12);
ASSERT_SIZE(flow, 20);
ASSERT_SIZE(fdb_key, 12);
ASSERT_SIZE(fdb, 32);
ASSERT_SIZE(neigh_key, 24);
ASSERT_SIZE(neigh, 8);
ASSERT_SIZE(guard_key, 28);
ASSERT_SIZE(guard, 4);
ASSERT_SIZE(replication_key, 8);
ASSERT_SIZE(replication, 12 + 4 * REPLICATION_MAX);
ASSERT_SIZE(remote_key, 16);
ASSERT_SIZE(remote, 24);
ASSERT_SIZE(peer_key, 8);
ASSERT_SIZE(peer, 52);
ASSERT_SIZE(counters, 8 * (4 + VERDICT_MAX + DROP_MAX));
ASSERT_SIZE(slow_meta, 16);
ASSERT_SIZE(seal_meta, 16);

#endif
