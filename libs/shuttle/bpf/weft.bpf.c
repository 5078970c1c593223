// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The five programs of the data plane, all at the TCX ingress of their devices:
 *
 *   ep_in    a port: guard, neighbours, flow, action
 *   ul_in    an underlay device: takes VXLAN off where that is right
 *   vx_in    the VXLAN device: what ul_in left to it
 *   seal_in  the TAP of what is sealed: frames of other hosts that the shuttle has opened, and
 *            packets of WireGuard clients, which go the way of a port's
 *   slow_in  the TAP of the shuttle: frames that it gives back
 *
 * Only ul_in ever lets a frame go on into the host's own network stack. There are no global
 * variables: everything is in pinned maps.
 */
#include "deliver.h"
#include "guard.h"
#include "neighbour.h"
#include "packet.h"
#include "tunnel.h"

/* What happens to a frame of an endpoint after the guard, and to one that the shuttle gives back.
 */
INLINE int forward(struct __sk_buff *skb, struct run *run, struct headers *h,
		   const struct identity *who, int icmp6)
{
	struct port *port = run->port;
	struct flow_key key = {.source_endpoint_id = port->endpoint_id};
	enum neighbour_action action;
	struct flow *flow;
	struct fdb *target;
	u32 length, now_s;

	if (h->eth.type == bpf_htons(ETH_P_ARP) || icmp6 == ND_NEIGHBOUR_SOLICITATION ||
	    icmp6 == ND_NEIGHBOUR_ADVERT) {
		bool is_arp = h->eth.type == bpf_htons(ETH_P_ARP);

		/* A client has no link on which it could ask. */
		if (run->ifindex & CLIENT_BIT) {
			finish(skb, run->counters, VERDICT_absorbed, 0);
			return TC_ACT_SHOT;
		}
		action = is_arp ? handle_arp(skb, h, port->vni, who, port->mac)
				: handle_nd(skb, h, port->vni, who, port->mac);
		switch (action) {
		case NEIGHBOUR_ANSWER:
			finish(skb, run->counters, VERDICT_answered, run->ifindex);
			return bpf_redirect(run->ifindex, 0);
		case NEIGHBOUR_ABSORB:
			finish(skb, run->counters, VERDICT_absorbed, 0);
			return TC_ACT_SHOT;
		case NEIGHBOUR_UNKNOWN:
			return hold(skb, run, h, SLOW_NEIGHBOUR, &port->error,
				    DROP_neighbour_unknown, DROP_neighbour_unknown, 0);
		case NEIGHBOUR_SPOOFED:
			return drop(skb, run->counters, is_arp ? DROP_source_arp : DROP_source_nd);
		default:
			return drop(skb, run->counters, DROP_malformed);
		}
	}

	length = wire_length(skb, h);
	if (is_group(h->eth.target)) {
		if (is_control(h->eth.target))
			return drop(skb, run->counters, DROP_control_frame);
		if (length > port->mtu)
			return drop(skb, run->counters, DROP_mtu_exceeded);
		if (!spend(&port->replicate, run->now_ns))
			return drop(skb, run->counters, DROP_replicate_budget);
		replicate(skb, run, h, port->vni, run->ifindex, true);
		finish(skb, run->counters, VERDICT_replicated, port->vni);
		return TC_ACT_SHOT;
	}

	copy_mac(key.target_mac, h->eth.target);
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow || flow->generation != run->config->generation) {
		if (is_same_mac(h->eth.target, port->mac))
			return drop(skb, run->counters, DROP_hairpin);
		target = find_mac(port->vni, run->half, h->eth.target);
		if (!target)
			return drop(skb, run->counters, DROP_unknown_destination);
		return hold(skb, run, h, SLOW_MISS, &port->miss, DROP_miss_budget, DROP_unresolved,
			    0);
	}
	now_s = run->now_ns / NS_PER_S;
	if (flow->last_used_s != now_s)
		flow->last_used_s = now_s;
	if (flow->via == VIA_DROP)
		return drop(skb, run->counters, flow->reason);
	if (length > port->mtu)
		return too_large(skb, run, h, port->mtu);
	if (flow->via == VIA_HOST)
		return to_host(skb, run, h, length, flow->target);
	if (flow->via == VIA_SEALED)
		return to_sealed(skb, run, h, length, flow->target);
	if (flow->via == VIA_CLIENT) {
		u32 number = flow->target;
		struct port *client = bpf_map_lookup_elem(&ports, &number);

		if (client && length > client->mtu)
			return too_large(skb, run, h, client->mtu);
	}
	return to_port(skb, run, VERDICT_same_host, flow->slot, flow->target, flow->via, port->vni,
		       h->eth.type);
}

INLINE void identify(struct identity *who, const struct run *run)
{
	who->endpoint_id = run->port->endpoint_id;
	who->half = run->half;
	who->ip4 = run->port->ip4;
	who->ip6 = run->port->ip6;
	who->has_more_sources = run->port->flags & PORT_MORE_SOURCES;
}

/* Why a port's packet goes no further, or DROP_none; `icmp6` becomes its ICMPv6 type, if it is one.
 */
INLINE u32 port_refusal(struct __sk_buff *skb, const struct run *run, const struct headers *h,
			const struct identity *who, int *icmp6)
{
	if (!is_well_formed(h))
		return DROP_malformed;
	if (h->eth.type == bpf_htons(ETH_P_IP))
		return may_use_ip4(who, h->ip4.saddr) ? DROP_none : DROP_source_ip4;
	if (h->eth.type != bpf_htons(ETH_P_IPV6))
		return DROP_none;
	if (!may_send_from_ip6(who, h))
		return DROP_source_ip6;
	if (!may_carry_icmp6(h->ip6.nexthdr))
		return DROP_none;
	*icmp6 = icmp6_type(skb, h->ip6.nexthdr);
	if (*icmp6 < 0)
		return DROP_hidden_nd;
	if (*icmp6 == ND_ROUTER_ADVERTISEMENT && !(run->port->flags & PORT_ROUTES))
		return DROP_router_advertisement;
	return *icmp6 == ND_REDIRECT ? DROP_redirect_message : DROP_none;
}

SEC("classifier/ep_in")
int ep_in(struct __sk_buff *skb)
{
	struct run run = {.ifindex = skb->ifindex};
	struct identity who;
	struct headers h;
	int icmp6 = 0;
	u32 refusal;

	run.port = bpf_map_lookup_elem(&ports, &run.ifindex);
	if (!start(&run, run.port ? run.port->slot : 0))
		return TC_ACT_SHOT;
	if (!run.port)
		return drop(skb, run.counters, DROP_not_a_port);
	run.now_ns = bpf_ktime_get_coarse_ns();
	run.counters->received_packets++;
	run.counters->received_bytes += skb->len;
	if (!load_headers(skb, 0, &h))
		return drop(skb, run.counters, DROP_malformed);
	if (is_tagged(skb, &h))
		return drop(skb, run.counters, DROP_vlan_tagged);
	if (!is_same_mac(h.eth.source, run.port->mac))
		return drop(skb, run.counters, DROP_source_mac);
	identify(&who, &run);
	refusal = port_refusal(skb, &run, &h, &who, &icmp6);
	if (refusal)
		return drop(skb, run.counters, refusal);
	return forward(skb, &run, &h, &who, icmp6);
}

INLINE void identify_remote(struct identity *who, const struct fdb *source, u32 half)
{
	who->endpoint_id = source->endpoint_id;
	who->half = half;
	who->ip4 = source->ip4;
	who->ip6 = source->ip6;
	who->has_more_sources = source->flags & FDB_MORE_SOURCES;
}

/* Who brought a frame here, and how. */
struct sender {
	u32 host_id;
	u32 vni;
	/* FDB_BY_VXLAN or FDB_BY_SEALED. */
	u8 carrier;
	/* It has no shuttle to answer neighbour messages. */
	bool is_foreign;
};

/* A carrier brings the frames of the networks that it is listed for, and of no other. */
INLINE u32 carrier_refusal(const struct fdb *source, u8 carrier)
{
	if (source->flags & carrier)
		return DROP_none;
	return source->flags & FDB_BY_SEALED ? DROP_not_sealed : DROP_not_shared;
}

/* A frame's source is an endpoint that is located at the host which sent the frame, with that
 * endpoint's addresses. */
INLINE bool is_located_at(const struct fdb *source, const struct identity *who, u32 host_id,
			  const struct headers *h)
{
	if (source->via != VIA_HOST || source->target != host_id)
		return false;
	if (h->eth.type == bpf_htons(ETH_P_IP))
		return may_use_ip4(who, h->ip4.saddr);
	if (h->eth.type == bpf_htons(ETH_P_IPV6))
		return may_send_from_ip6(who, h);
	return true;
}

/*
 * Taking the header off here is right for IP to a port when the header is plain. The rest is left
 * to the device: what it must reassemble or check, broadcasts, neighbour messages, and
 * super-packets that would keep the marks of the tunnel where those do harm. TCP for a socket in
 * another namespace is where they do none.
 */
SEC("classifier/ul_in")
int ul_in(struct __sk_buff *skb)
{
	struct outer outer;
	struct headers h;
	struct run run = {};
	struct identity who;
	struct remote_key key;
	struct remote *remote;
	struct fdb *source, *target;
	u64 decap = ADJ_ROOM_DECAP_L3_IPV4;
	u32 vni, refusal;
	u8 protocol;

	if (skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, 0, &outer.eth, ROOM) ||
	    outer.ip.protocol != IPPROTO_UDP || *(u8 *)&outer.ip != 0x45)
		return TC_ACT_OK;
	if (!start(&run, 0) || outer.udp.dest != bpf_htons(run.config->vxlan_port) ||
	    (outer.ip.frag_off & bpf_htons(0x3fff)))
		return TC_ACT_OK;

	vni = bpf_ntohl(outer.vxlan.vni);
	/* A checksum is for the device to verify, as is the merging of a congestion mark (RFC
	 * 6040). */
	if (outer.vxlan.flags != VXLAN_FLAG_VNI || (vni & 0xff) || outer.udp.check ||
	    (outer.ip.tos & 3) == 3 || !load_headers(skb, ROOM, &h) || is_group(h.eth.target))
		goto pass;
	vni >>= 8;
	if (h.eth.type == bpf_htons(ETH_P_IP)) {
		protocol = h.ip4.protocol;
	} else if (h.eth.type == bpf_htons(ETH_P_IPV6)) {
		protocol = h.ip6.nexthdr;
		decap = ADJ_ROOM_DECAP_L3_IPV6;
		/* Echoes pass; neighbour messages are for the device's program. */
		if (may_carry_icmp6(protocol) &&
		    (protocol != IPPROTO_ICMPV6 ||
		     bpf_skb_load_bytes(skb, ROOM + L4_OFFSET6, &protocol, 1) ||
		     (protocol >= ND_ROUTER_SOLICITATION && protocol <= ND_REDIRECT)))
			goto pass;
		protocol = h.ip6.nexthdr;
	} else {
		goto pass;
	}
	map_ip4(key.ip, outer.ip.saddr);
	remote = bpf_map_lookup_elem(&remotes, &key);
	if (!remote || *(be32 *)(remote->local_ip + 12) != outer.ip.daddr)
		goto pass;
	target = find_mac(vni, run.half, h.eth.target);
	if (!target || target->via == VIA_HOST)
		return drop(skb, run.counters, DROP_unknown_destination);
	if (skb->gso_size && (protocol != IPPROTO_TCP || target->via != VIA_PEER))
		goto pass;
	source = find_mac(vni, run.half, h.eth.source);
	if (!source)
		return drop(skb, run.counters, DROP_sender_mismatch);
	identify_remote(&who, source, run.half);
	if (!is_well_formed(&h) || !is_located_at(source, &who, remote->host_id, &h))
		return drop(skb, run.counters, DROP_sender_mismatch);
	refusal = carrier_refusal(source, FDB_BY_VXLAN);
	if (refusal)
		return drop(skb, run.counters, refusal);

	if (bpf_skb_adjust_room(skb, -ROOM, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET | decap))
		goto pass;
	bpf_skb_store_bytes(skb, 0, &h.eth, ETH_BYTES, 0);
	/* What the device vouched for is one header further in now; an error says that it vouched
	 * for nothing. */
	bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
	return to_port(skb, &run, VERDICT_delivered, target->slot, target->target, target->via, vni,
		       h.eth.type);

pass:
	finish(skb, run.counters, VERDICT_passed, 0);
	return TC_ACT_OK;
}

/* The host that a frame at the VXLAN device came from, and the frame's network. */
INLINE struct remote *tunnel_source(struct __sk_buff *skb, struct bpf_tunnel_key *tunnel)
{
	struct remote_key key = {};

	if (!bpf_skb_get_tunnel_key(skb, tunnel, sizeof(*tunnel), 0))
		map_ip4(key.ip, bpf_htonl(tunnel->remote_ipv4));
	else if (!bpf_skb_get_tunnel_key(skb, tunnel, sizeof(*tunnel), BPF_F_TUNINFO_IPV6))
		copy_ip6(key.ip, tunnel->remote_ipv6);
	return bpf_map_lookup_elem(&remotes, &key);
}

/* A neighbour message of a host that has no shuttle to answer it. */
INLINE int answer_foreign(struct __sk_buff *skb, struct run *run, struct headers *h, u32 vni,
			  const struct identity *who, u32 host_id)
{
	struct peer *peer = find_peer(host_id, VIA_HOST);
	u8 mac[6] __attribute__((aligned(2)));
	enum neighbour_action action;
	bool is_arp = h->eth.type == bpf_htons(ETH_P_ARP);

	if (!peer)
		return drop(skb, run->counters, DROP_no_peer);
	copy_mac(mac, h->eth.source);
	action = is_arp ? handle_arp(skb, h, vni, who, mac) : handle_nd(skb, h, vni, who, mac);
	switch (action) {
	case NEIGHBOUR_ANSWER:
		set_tunnel(skb, peer, vni);
		finish(skb, run->counters, VERDICT_answered, host_id);
		return bpf_redirect(run->config->vxlan_ifindex, 0);
	case NEIGHBOUR_ABSORB:
		finish(skb, run->counters, VERDICT_absorbed, 0);
		return TC_ACT_SHOT;
	case NEIGHBOUR_UNKNOWN:
		return drop(skb, run->counters, DROP_neighbour_unknown);
	case NEIGHBOUR_SPOOFED:
		return drop(skb, run->counters, is_arp ? DROP_source_arp : DROP_source_nd);
	default:
		return drop(skb, run->counters, DROP_malformed);
	}
}

/* A frame of another host without what carried it: the same for every carrier. */
INLINE int receive(struct __sk_buff *skb, struct run *run, const struct sender *sender)
{
	struct identity who;
	struct headers h;
	struct fdb *source, *target;
	int icmp6 = 0;
	u32 vni = sender->vni, refusal;

	if (!load_headers(skb, 0, &h) || !is_well_formed(&h))
		return drop(skb, run->counters, DROP_malformed);
	if (is_tagged(skb, &h))
		return drop(skb, run->counters, DROP_vlan_tagged);
	source = find_mac(vni, run->half, h.eth.source);
	if (!source)
		return drop(skb, run->counters, DROP_sender_mismatch);
	identify_remote(&who, source, run->half);
	if (!is_located_at(source, &who, sender->host_id, &h))
		return drop(skb, run->counters, DROP_sender_mismatch);
	refusal = carrier_refusal(source, sender->carrier);
	if (refusal)
		return drop(skb, run->counters, refusal);

	if (h.eth.type == bpf_htons(ETH_P_IPV6) && may_carry_icmp6(h.ip6.nexthdr)) {
		icmp6 = icmp6_type(skb, h.ip6.nexthdr);
		if (icmp6 < 0)
			return drop(skb, run->counters, DROP_hidden_nd);
		if (icmp6 == ND_ROUTER_ADVERTISEMENT && !(source->flags & FDB_ROUTES))
			return drop(skb, run->counters, DROP_router_advertisement);
		if (icmp6 == ND_REDIRECT)
			return drop(skb, run->counters, DROP_redirect_message);
	}
	if (h.eth.type == bpf_htons(ETH_P_ARP) || icmp6 == ND_NEIGHBOUR_SOLICITATION ||
	    icmp6 == ND_NEIGHBOUR_ADVERT) {
		if (!sender->is_foreign)
			return drop(skb, run->counters, DROP_neighbour_from_remote);
		return answer_foreign(skb, run, &h, vni, &who, sender->host_id);
	}
	if (is_group(h.eth.target)) {
		if (is_control(h.eth.target))
			return drop(skb, run->counters, DROP_control_frame);
		/* Never on to other hosts: the sender has sent to all of them. */
		replicate(skb, run, &h, vni, 0, false);
		finish(skb, run->counters, VERDICT_replicated, vni);
		return TC_ACT_SHOT;
	}
	target = find_mac(vni, run->half, h.eth.target);
	if (!target || target->via == VIA_HOST)
		return drop(skb, run->counters, DROP_unknown_destination);
	return to_port(skb, run, VERDICT_delivered, target->slot, target->target, target->via, vni,
		       h.eth.type);
}

INLINE int receive_from_device(struct __sk_buff *skb)
{
	struct bpf_tunnel_key tunnel = {};
	struct sender sender = {.carrier = FDB_BY_VXLAN};
	struct run run = {};
	struct remote *remote;

	if (!start(&run, 0))
		return TC_ACT_SHOT;
	remote = tunnel_source(skb, &tunnel);
	if (!remote)
		return drop(skb, run.counters, DROP_sender_unknown);
	sender.host_id = remote->host_id;
	sender.vni = tunnel.tunnel_id;
	sender.is_foreign = remote->flags & REMOTE_FOREIGN;
	return receive(skb, &run, &sender);
}

SEC("classifier/vx_in")
int vx_in(struct __sk_buff *skb)
{
	return receive_from_device(skb);
}

/*
 * An IPv6 payload is told as such in front too: skb->protocol is what is said there. Not inlined,
 * as is_from_shuttle(), so that the object has the type of the struct for the test of the layouts.
 */
static __noinline bool is_opened_frame(const struct seal_meta *meta, be16 front_type)
{
	be16 ip6 = bpf_htons(ETH_P_IPV6);

	return meta->magic == SEAL_MAGIC && (meta->ethertype == ip6) == (front_type == ip6);
}

/* Where on the link a client's packet goes: its network knows the neighbour, or it is to a group
 * (RFC 1112 6.4, RFC 2464 7). */
INLINE bool find_target(struct headers *h, const struct run *run)
{
	u8 ip[16] __attribute__((aligned(4)));
	struct neigh *neighbour;

	if (is_group(h->eth.target))
		return true;
	if (h->eth.type == bpf_htons(ETH_P_IP))
		map_ip4(ip, h->ip4.daddr);
	else
		copy_ip6(ip, &h->ip6.daddr);
	neighbour = find_neighbour(run->port->vni, run->half, ip);
	if (neighbour)
		copy_mac(h->eth.target, neighbour->mac);
	return neighbour;
}

INLINE void write_group(struct headers *h)
{
	u16 *mac = (u16 *)h->eth.target;
	const u16 *ip;

	mac[0] = mac[1] = mac[2] = 0;
	if (h->eth.type == bpf_htons(ETH_P_IPV6) && h->ip6.daddr.s6_addr[0] == 0xff) {
		ip = &h->ip6.daddr.s6_addr16[6];
		mac[0] = bpf_htons(0x3333);
		mac[1] = ip[0];
		mac[2] = ip[1];
	} else if (h->eth.type == bpf_htons(ETH_P_IP) && h->ip4.daddr == bpf_htonl(0xffffffff)) {
		mac[0] = mac[1] = mac[2] = 0xffff;
	} else if (h->eth.type == bpf_htons(ETH_P_IP) &&
		   (h->ip4.daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000)) {
		ip = (const u16 *)&h->ip4.daddr;
		mac[0] = bpf_htons(0x0100);
		mac[1] = bpf_htons(0x5e00) | (ip[0] & bpf_htons(0x007f));
		mac[2] = ip[1];
	}
}

/* A packet of a WireGuard client: with an Ethernet header in front it is a frame of any port. */
INLINE int receive_from_client(struct __sk_buff *skb, struct run *run)
{
	struct identity who;
	struct headers h;
	int icmp6 = 0;
	u32 refusal;

	run->counters = counters_of(run->port->slot);
	if (!run->counters)
		return TC_ACT_SHOT;
	run->now_ns = bpf_ktime_get_coarse_ns();
	run->counters->received_packets++;
	run->counters->received_bytes += skb->len;
	if (!load_headers(skb, 0, &h) || !is_ip(&h))
		return drop(skb, run->counters, DROP_malformed);
	copy_mac(h.eth.source, run->port->mac);
	write_group(&h);
	identify(&who, run);
	refusal = port_refusal(skb, run, &h, &who, &icmp6);
	if (refusal)
		return drop(skb, run->counters, refusal);
	if (!find_target(&h, run))
		return drop(skb, run->counters, DROP_neighbour_unknown);
	bpf_skb_store_bytes(skb, 0, &h.eth, ETH_BYTES, 0);
	return forward(skb, run, &h, &who, icmp6);
}

SEC("classifier/seal_in")
int seal_in(struct __sk_buff *skb)
{
	struct {
		u16 align;
		struct eth eth;
		struct seal_meta meta;
	} __attribute__((aligned(4))) front;
	const u32 front_bytes = sizeof(front) - sizeof(front.align);
	struct sender sender = {.carrier = FDB_BY_SEALED};
	struct run run = {};

	if (!start(&run, 0))
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb, 0, &front.eth, front_bytes) ||
	    !is_opened_frame(&front.meta, front.eth.type))
		return drop(skb, run.counters, DROP_seal_frame);
	run.ifindex = front.meta.host_id;
	if (front.meta.host_id & CLIENT_BIT)
		run.port = bpf_map_lookup_elem(&ports, &run.ifindex);
	if (!run.port && !find_peer(front.meta.host_id, VIA_SEALED))
		return drop(skb, run.counters, DROP_sender_unknown);
	/* Taking room away must leave an IPv4 header's length, and other payloads may be shorter.
	 */
	if (skb->len < front_bytes + sizeof(struct iphdr))
		bpf_skb_change_tail(skb, front_bytes + sizeof(struct iphdr), 0);
	if (bpf_skb_adjust_room(skb, -(int)sizeof(struct seal_meta), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		return drop(skb, run.counters, DROP_seal_frame);
	front.eth.type = front.meta.ethertype;
	bpf_skb_store_bytes(skb, 0, &front.eth, ETH_BYTES, 0);
	if (run.port)
		return receive_from_client(skb, &run);
	sender.host_id = front.meta.host_id;
	sender.vni = front.meta.vni;
	return receive(skb, &run, &sender);
}

static __noinline bool is_from_shuttle(const struct slow_meta *meta)
{
	return meta->magic == SLOW_MAGIC && meta->purpose >= SLOW_RESEND &&
	       meta->purpose <= SLOW_DROP;
}

SEC("classifier/slow_in")
int slow_in(struct __sk_buff *skb)
{
	struct {
		u16 align;
		struct eth eth;
		struct slow_meta meta;
	} __attribute__((aligned(4))) front;
	struct run run = {};
	struct identity who;
	struct counters *counters;
	struct headers h;
	int icmp6 = 0;

	if (!start(&run, 0))
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(skb, 0, &front.eth, sizeof(front) - sizeof(front.align)) ||
	    !is_from_shuttle(&front.meta))
		return drop(skb, run.counters, DROP_slow_frame);

	run.ifindex = front.meta.ifindex;
	run.port = bpf_map_lookup_elem(&ports, &run.ifindex);
	if (run.port && run.port->endpoint_id != front.meta.endpoint_id)
		run.port = NULL;
	/* Every frame that was held ends in one of the two others, at the port where it was counted
	 * before. */
	if (front.meta.purpose != SLOW_TO_SOURCE) {
		counters = counters_of(run.port ? run.port->slot : 0);
		if (counters)
			run.counters = counters;
		run.counters->verdicts[VERDICT_resent]++;
	}
	if (front.meta.purpose == SLOW_DROP)
		return drop(skb, run.counters, front.meta.reason);

	if (!run.port)
		return drop(skb, run.counters, DROP_port_gone);
	if (bpf_skb_adjust_room(skb, -(int)sizeof(struct slow_meta), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		return drop(skb, run.counters, DROP_slow_frame);
	front.eth.type = front.meta.ethertype;
	bpf_skb_store_bytes(skb, 0, &front.eth, ETH_BYTES, 0);

	if (front.meta.purpose == SLOW_TO_SOURCE)
		return to_port(skb, &run, VERDICT_delivered, run.port->slot, run.ifindex,
			       run.ifindex & CLIENT_BIT ? VIA_CLIENT : VIA_DEVICE, run.port->vni,
			       front.eth.type);
	if (!load_headers(skb, 0, &h))
		return drop(skb, run.counters, DROP_slow_frame);
	if (h.eth.type == bpf_htons(ETH_P_IPV6) && may_carry_icmp6(h.ip6.nexthdr))
		icmp6 = icmp6_type(skb, h.ip6.nexthdr);
	run.now_ns = bpf_ktime_get_coarse_ns();
	run.is_resent = true;
	identify(&who, &run);
	return forward(skb, &run, &h, &who, icmp6);
}

char license_text[] SEC("license")
= "Dual MIT/GPL";
