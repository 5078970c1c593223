/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What may happen to a frame: the source of these names and numbers for every language.
 * A number is never reused. The build of the Rust crate `abi` reads the lines that begin with X.
 */
#ifndef WEFT_REASONS_H
#define WEFT_REASONS_H

/*
 * Exactly one verdict is counted for each frame that a program sees. At every port
 *
 *   received + resent = same_host + direct + device + sealed + replicated + answered + absorbed
 *                       + held + the sum of all drops
 *
 * where `held` frames come back as `resent` ones, or are still with the shuttle (or died with it).
 */
/* clang-format off */
#define WEFT_VERDICTS(X)                                                                           \
	X(1, same_host, "went to a port of this host")                                             \
	X(2, direct, "went to another host in a VXLAN header built by the program")                \
	X(3, device, "went to another host through the VXLAN device")                              \
	X(4, replicated, "broadcast or multicast, copied to the members of the network")           \
	X(5, answered, "an ARP request or neighbour solicitation, answered at once")               \
	X(6, absorbed, "a neighbour message that needs no answer here")                            \
	X(7, held, "waits in the shuttle for an answer")                                           \
	X(8, resent, "came back from the shuttle")                                                 \
	X(9, delivered, "came from another host or the shuttle and went to a port")                \
	X(10, passed, "is left to the host's own network stack or its VXLAN device")               \
	X(11, dropped, "was dropped for a reason of its own")                                      \
	X(12, sealed, "went to another host by the shuttle, which seals it")

#define WEFT_DROP_REASONS(X)                                                                       \
	X(1, not_a_port, "came in at a device that is no port")                                    \
	X(2, malformed, "too short, or headers that contradict themselves")                        \
	X(3, vlan_tagged, "carries a VLAN tag")                                                    \
	X(4, source_mac, "source MAC is not the endpoint's")                                       \
	X(5, source_ip4, "source IPv4 address is not the endpoint's")                              \
	X(6, source_ip6, "source IPv6 address is not the endpoint's")                              \
	X(7, source_arp, "ARP sender is not the endpoint")                                         \
	X(8, source_nd, "neighbour message claims what is not the endpoint's")                     \
	X(9, router_advertisement, "the endpoint may not route")                                   \
	X(10, hidden_nd, "neighbour message behind extension headers, or too many of those")       \
	X(11, redirect_message, "ICMPv6 redirect")                                                 \
	X(12, neighbour_unknown, "asked for a neighbour that the network does not have")           \
	X(13, mtu_exceeded, "larger than the network carries")                                     \
	X(14, unknown_destination, "no endpoint of the network has the target MAC")                \
	X(15, hairpin, "addressed to its own sender")                                              \
	X(16, control_frame, "link-local control frame of a bridge")                               \
	X(17, replicate_budget, "too many broadcasts from the port")                               \
	X(18, miss_budget, "too many first packets from the port")                                 \
	X(19, hold_full, "there was no room for it in the shuttle, or on the way there")           \
	X(20, not_served, "no flow, and the shuttle that would ask for one is not running")        \
	X(21, unresolved, "no flow after the question was answered")                               \
	X(22, refused, "the flow's policy refuses it")                                             \
	X(23, no_carrier, "the two hosts have no carrier in common")                               \
	X(24, no_peer, "the flow goes to a host that is not known here")                           \
	X(25, sender_unknown, "came from an underlay address or a sealed peer that is no host's")  \
	X(26, sender_mismatch, "its source is not located at the host that sent it")               \
	X(27, neighbour_from_remote, "neighbour message from a host that answers its own")         \
	X(28, port_gone, "came back from the shuttle for a port that is gone")                     \
	X(29, slow_frame, "came from the shuttle in no known form")                                \
	X(30, not_sealed, "came in the clear, in a network that is sealed between the two hosts")  \
	X(31, not_shared, "is of a network that its carrier may not bring from that host")         \
	X(32, no_seal_device, "has to be sealed, and nothing here seals")                          \
	X(33, seal_frame, "came from the shuttle, unsealed, in no known form")                     \
	X(34, not_ip, "is no IP packet, and a WireGuard client takes nothing else")
/* clang-format on */

#define WEFT_VERDICT_ENUM(number, name, text) VERDICT_##name = number,
#define WEFT_DROP_ENUM(number, name, text)    DROP_##name = number,

enum verdict { WEFT_VERDICTS(WEFT_VERDICT_ENUM) };
enum drop_reason { DROP_none, WEFT_DROP_REASONS(WEFT_DROP_ENUM) };

#endif
