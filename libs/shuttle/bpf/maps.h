/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The maps, all pinned by name. The shuttle sets the numbers of rows when it loads the programs
 * (crate `kernel`, `Limits`, where the sum of their memory stands); the ones here are for tools
 * that load the object by themselves.
 *
 * Rows are allocated as they come, but for the counters, so an idle host pays for little else than
 * buckets. The shuttle writes all of them; the programs change nothing but counters, budgets and
 * `last_used_s`.
 */
#ifndef WEFT_MAPS_H
#define WEFT_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

/* clang-format off */
#define PINNED_MAP(map_name, map_kind, key_type, value_type, rows, flags)                          \
	struct {                                                                                   \
		__uint(type, map_kind);                                                            \
		__uint(map_flags, flags);                                                          \
		__uint(max_entries, rows);                                                         \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
		__uint(pinning, LIBBPF_PIN_BY_NAME);                                               \
	} map_name SEC(".maps")
/* clang-format on */

PINNED_MAP(config, BPF_MAP_TYPE_ARRAY, u32, struct config, 1, BPF_F_MMAPABLE);
/* By ifindex, or what stands in for one. */
PINNED_MAP(ports, BPF_MAP_TYPE_HASH, u32, struct port, 1024, BPF_F_NO_PREALLOC);
/* By slot: an array, because every frame is counted twice, and its rows cost no hash. */
PINNED_MAP(port_counters, BPF_MAP_TYPE_PERCPU_ARRAY, u32, struct counters, 1025, 0);
PINNED_MAP(flows, BPF_MAP_TYPE_HASH, struct flow_key, struct flow, 131072, BPF_F_NO_PREALLOC);
PINNED_MAP(fdb, BPF_MAP_TYPE_HASH, struct fdb_key, struct fdb, 131072, BPF_F_NO_PREALLOC);
PINNED_MAP(neigh, BPF_MAP_TYPE_HASH, struct neigh_key, struct neigh, 393216, BPF_F_NO_PREALLOC);
PINNED_MAP(guard, BPF_MAP_TYPE_LPM_TRIE, struct guard_key, struct guard, 32768, BPF_F_NO_PREALLOC);
PINNED_MAP(replication, BPF_MAP_TYPE_HASH, struct replication_key, struct replication, 8192,
	   BPF_F_NO_PREALLOC);
PINNED_MAP(peers, BPF_MAP_TYPE_HASH, struct peer_key, struct peer, 32768, BPF_F_NO_PREALLOC);
PINNED_MAP(remotes, BPF_MAP_TYPE_HASH, struct remote_key, struct remote, 16384, BPF_F_NO_PREALLOC);

#endif
