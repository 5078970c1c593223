//! NATs as of RFC 4787 that let in only what was sent to before (address and port).

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

pub(crate) struct Nat {
    outside: IpAddr,
    /// Another outside port for each target.
    is_symmetric: bool,
    next_port: u16,
    ports: HashMap<(SocketAddr, Option<SocketAddr>), u16>,
    inside: HashMap<u16, SocketAddr>,
    allowed: HashSet<(u16, SocketAddr)>,
}

impl Nat {
    pub(crate) fn new(outside: IpAddr, is_symmetric: bool) -> Self {
        Self {
            outside,
            is_symmetric,
            next_port: 40_000,
            ports: HashMap::new(),
            inside: HashMap::new(),
            allowed: HashSet::new(),
        }
    }

    /// The outside address of an inside one, as any target of an endpoint-independent NAT sees it.
    pub(crate) fn mapping(&mut self, inside: SocketAddr, target: SocketAddr) -> SocketAddr {
        let key = (inside, self.is_symmetric.then_some(target));
        let port = *self.ports.entry(key).or_insert_with(|| {
            self.next_port += 1;
            self.next_port
        });
        self.inside.insert(port, inside);
        SocketAddr::new(self.outside, port)
    }

    pub(crate) fn translate_out(&mut self, inside: SocketAddr, target: SocketAddr) -> SocketAddr {
        let outside = self.mapping(inside, target);
        self.allowed.insert((outside.port(), target));
        outside
    }

    pub(crate) fn translate_in(
        &mut self,
        source: SocketAddr,
        target: SocketAddr,
    ) -> Option<SocketAddr> {
        let is_here = target.ip() == self.outside;
        let is_allowed = is_here && self.allowed.contains(&(target.port(), source));
        is_allowed.then(|| self.inside.get(&target.port()).copied()).flatten()
    }

    /// Forgets everything, as after a restart; new ports follow.
    pub(crate) fn restart(&mut self) {
        self.ports.clear();
        self.inside.clear();
        self.allowed.clear();
    }
}
