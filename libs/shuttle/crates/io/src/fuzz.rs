//! What a fuzzer calls: each function takes any bytes and reads them as what came from a socket.

use std::net::IpAddr;

use crate::netlink::{Message, Messages};
use crate::{echo, links, routes, watch};

/// Reads the bytes as what came to an echo socket. The first says of which family.
///
/// # Panics
/// Where a packet counts as an answer to the requests of somebody else too.
pub fn echo(bytes: &[u8]) {
    let Some((family, packet)) = bytes.split_first() else { return };
    let target: IpAddr = if family & 1 == 0 {
        [10, 20, 0, 13].into()
    } else {
        [0xfd20, 0, 0, 0, 0, 0, 0, 13].into()
    };
    if echo::parse(target, 0x1234, packet).is_some() {
        assert_eq!(echo::parse(target, 0x1235, packet), None);
    }
}

/// Reads the bytes as messages of `NETLINK_ROUTE`, each by every reader.
pub fn netlink(bytes: &[u8]) {
    for raw in Messages(bytes) {
        let _ = raw.error();
        let _ = watch::parse(raw.kind, raw.body);
        let _ = routes::parse_own_address(raw.body);
        let _ = routes::parse_next_hop(raw.body, [10, 20, 0, 13].into());
        let _ = routes::parse_neighbour(raw.body);
        let _ = links::parse_link(&Message { kind: raw.kind, body: raw.body.to_vec() });
    }
}
