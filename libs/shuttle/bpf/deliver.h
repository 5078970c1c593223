/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The last step of a run: to a port of this host, to another host, to all members of a network, to
 * the shuttle. */
#ifndef WEFT_DELIVER_H
#define WEFT_DELIVER_H

#include "guard.h"
#include "packet.h"
#include "tunnel.h"

INLINE void count_sent(u32 slot, u32 bytes)
{
	struct counters *counters = counters_of(slot);

	if (counters) {
		counters->sent_packets++;
		counters->sent_bytes += bytes;
	}
}

INLINE void write_seal_meta(struct __sk_buff *skb, u32 host_id, u32 vni, be16 ethertype)
{
	struct seal_meta meta = {
		.magic = SEAL_MAGIC, .ethertype = ethertype, .host_id = host_id, .vni = vni};

	/* Cannot fail: the room has been made. */
	bpf_skb_store_bytes(skb, 0, &meta, sizeof(meta), 0);
}

/* To a WireGuard client of this host, by the shuttle, which leaves the Ethernet header out. */
INLINE int to_client(struct __sk_buff *skb, const struct run *run, u32 verdict, u32 slot,
		     u32 client, u32 vni, be16 type)
{
	u32 bytes = skb->len;

	if (type != bpf_htons(ETH_P_IP) && type != bpf_htons(ETH_P_IPV6))
		return drop(skb, run->counters, DROP_not_ip);
	if (!run->config->seal_ifindex)
		return drop(skb, run->counters, DROP_no_seal_device);
	/* As in hold(). */
	if (bpf_skb_change_head(skb, sizeof(struct seal_meta), 0))
		return drop(skb, run->counters, DROP_hold_full);
	write_seal_meta(skb, client, vni, type);
	finish(skb, run->counters, verdict, client);
	count_sent(slot, bytes);
	return bpf_redirect(run->config->seal_ifindex, 0);
}

/* To a port of this host. */
INLINE int to_port(struct __sk_buff *skb, const struct run *run, u32 verdict, u32 slot, u32 ifindex,
		   u8 via, u32 vni, be16 type)
{
	if (via == VIA_CLIENT)
		return to_client(skb, run, verdict, slot, ifindex, vni, type);
	finish(skb, run->counters, verdict, ifindex);
	count_sent(slot, skb->len);
	/* bpf_redirect_peer() takes away everything that belongs to this host, but not the mark. */
	skb->mark = 0;
	/* It also skips the target's eth_type_trans(), which would tell what came from a TAP under
	 * the type of another payload, and find the frame to be addressed to it. */
	if (via != VIA_PEER || skb->protocol != type)
		return bpf_redirect(ifindex, 0);
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(ifindex, 0);
}

/*
 * To the shuttle, which answers, or gives the frame back. `reason` is why it is dropped where that
 * is not possible.
 */
INLINE int hold(struct __sk_buff *skb, struct run *run, struct headers *h, u8 purpose,
		struct budget *budget, u32 budget_reason, u32 resent_reason, u16 mtu)
{
	struct {
		u16 align;
		struct eth eth;
		struct slow_meta meta;
	} __attribute__((aligned(4))) front = {
		.eth = h->eth,
		.meta = {.magic = SLOW_MAGIC,
			 .purpose = purpose,
			 .endpoint_id = run->port->endpoint_id,
			 .ifindex = run->ifindex,
			 .ethertype = h->eth.type,
			 .mtu = mtu},
	};

	if (run->is_resent)
		return drop(skb, run->counters, resent_reason);
	if (!is_fresh(run))
		return drop(skb, run->counters, DROP_not_served);
	if (!spend(budget, run->now_ns))
		return drop(skb, run->counters, budget_reason);
	if (front.eth.type != bpf_htons(ETH_P_IPV6))
		front.eth.type = bpf_htons(ETH_P_IP);
	/* Keeps super-packets whole; refused without memory or above 16 KiB in one piece. */
	if (bpf_skb_change_head(skb, sizeof(struct slow_meta), 0))
		return drop(skb, run->counters, DROP_hold_full);
	bpf_skb_store_bytes(skb, 0, &front.eth, sizeof(front) - sizeof(front.align), 0);
	finish(skb, run->counters, VERDICT_held, run->config->slow_ifindex);
	return bpf_redirect(run->config->slow_ifindex, 0);
}

INLINE int too_large(struct __sk_buff *skb, struct run *run, struct headers *h, u16 mtu)
{
	/* Only IP has errors. */
	if (!is_ip(h))
		return drop(skb, run->counters, DROP_mtu_exceeded);
	return hold(skb, run, h, SLOW_MTU, &run->port->error, DROP_mtu_exceeded, DROP_mtu_exceeded,
		    mtu);
}

/* To another host, sealed by the shuttle: whole, whatever it is. */
INLINE int to_sealed(struct __sk_buff *skb, struct run *run, struct headers *h, u32 length,
		     u32 host_id)
{
	struct peer *peer = find_peer(host_id, VIA_SEALED);

	if (!peer)
		return drop(skb, run->counters, DROP_no_peer);
	if (length > peer->mtu)
		return too_large(skb, run, h, peer->mtu);
	if (!run->config->seal_ifindex)
		return drop(skb, run->counters, DROP_no_seal_device);
	/* As in hold(). */
	if (bpf_skb_change_head(skb, sizeof(struct seal_meta), 0))
		return drop(skb, run->counters, DROP_hold_full);
	write_seal_meta(skb, host_id, run->port->vni, h->eth.type);
	finish(skb, run->counters, VERDICT_sealed, host_id);
	return bpf_redirect(run->config->seal_ifindex, 0);
}

/* To another host, in VXLAN. */
INLINE int to_host(struct __sk_buff *skb, struct run *run, struct headers *h, u32 length,
		   u32 host_id)
{
	struct peer *peer = find_peer(host_id, VIA_HOST);

	if (!peer)
		return drop(skb, run->counters, DROP_no_peer);
	if (length > peer->mtu)
		return too_large(skb, run, h, peer->mtu);
	if ((peer->flags & PEER_RESOLVED) && is_fresh(run) &&
	    encapsulate(skb, h, peer, run->port->vni, run->config->vxlan_port)) {
		finish(skb, run->counters, VERDICT_direct, host_id);
		return bpf_redirect(peer->ifindex, 0);
	}
	/* Cannot fail: the key is well-formed, and its memory is there already. */
	set_tunnel(skb, peer, run->port->vni);
	finish(skb, run->counters, VERDICT_device, host_id);
	return bpf_redirect(run->config->vxlan_ifindex, 0);
}

struct replication_walk {
	struct __sk_buff *skb;
	const struct replication *row;
	u32 vni;
	u32 vxlan_ifindex;
	u32 seal_ifindex;
	u32 source_ifindex;
	be16 ethertype;
	bool to_hosts;
	/* The frame has room for a `seal_meta` in front, and is good for nothing else any more. */
	bool has_room;
};

INLINE long replicate_sealed(struct replication_walk *walk, u32 host_id)
{
	if (!walk->seal_ifindex || !find_peer(host_id, VIA_SEALED))
		return 0;
	if (!walk->has_room && bpf_skb_change_head(walk->skb, sizeof(struct seal_meta), 0))
		return 1;
	walk->has_room = true;
	write_seal_meta(walk->skb, host_id, walk->vni, walk->ethertype);
	bpf_clone_redirect(walk->skb, walk->seal_ifindex, 0);
	return 0;
}

static long replicate_one(u32 i, struct replication_walk *walk)
{
	u32 target;

	if (i >= REPLICATION_MAX)
		return 1;
	target = walk->row->targets[i];
	if (i < walk->row->port_count) {
		struct port *port;

		if (target == walk->source_ifindex)
			return 0;
		port = bpf_map_lookup_elem(&ports, &target);
		if (port && !bpf_clone_redirect(walk->skb, target, 0))
			count_sent(port->slot, walk->skb->len);
	} else if (!walk->to_hosts) {
		return 1;
	} else if (i < walk->row->port_count + walk->row->host_count) {
		struct peer *peer = find_peer(target, VIA_HOST);

		if (peer && !set_tunnel(walk->skb, peer, walk->vni))
			bpf_clone_redirect(walk->skb, walk->vxlan_ifindex, 0);
	} else {
		return replicate_sealed(walk, target);
	}
	return 0;
}

/* A copy to every port of the network here but `source_ifindex`, and to the hosts that have it if
 * `to_hosts`. The frame itself is to be dropped then. */
INLINE void replicate(struct __sk_buff *skb, const struct run *run, const struct headers *h,
		      u32 vni, u32 source_ifindex, bool to_hosts)
{
	struct replication_key key = {.vni = vni, .half = run->half};
	struct replication_walk walk = {
		.skb = skb,
		.row = bpf_map_lookup_elem(&replication, &key),
		.vni = vni,
		.vxlan_ifindex = run->config->vxlan_ifindex,
		.seal_ifindex = run->config->seal_ifindex,
		.source_ifindex = source_ifindex,
		.ethertype = h->eth.type,
		.to_hosts = to_hosts,
	};

	if (walk.row)
		bpf_loop(walk.row->port_count + walk.row->host_count + walk.row->sealed_count,
			 replicate_one, &walk, 0);
}

#endif
