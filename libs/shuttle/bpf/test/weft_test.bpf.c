// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * BPF_PROG_TEST_RUN cannot give a packet the tunnel information that the VXLAN device does. This
 * puts the information on the packet and then runs the same code as `vx_in`. `cb` has the VNI and
 * the sender's address, IPv4-mapped.
 */
#include "../weft.bpf.c"

SEC("classifier/vx_in_test")
int vx_in_test(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {.tunnel_id = skb->cb[0]};
	u64 flags = 0;

	if (skb->cb[1] || skb->cb[2]) {
		key.local_ipv6[0] = skb->cb[1];
		key.local_ipv6[1] = skb->cb[2];
		key.local_ipv6[2] = skb->cb[3];
		key.local_ipv6[3] = skb->cb[4];
		flags = BPF_F_TUNINFO_IPV6;
	} else {
		key.local_ipv4 = bpf_ntohl(skb->cb[4]);
	}
	if (key.tunnel_id && bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags))
		return TC_ACT_UNSPEC;
	return receive_from_device(skb);
}
