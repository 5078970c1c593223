//! `WireGuard` clients: peers that come by themselves, each as the port of an endpoint. Beside hosts
//! they go by the number that stands in for an ifindex.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::json;
use weft_abi::{CLIENT_BIT, client_endpoint, client_number};
use weft_tunnel::PEERS_MAX;

use super::parse::SealedPeer;
use super::{Core, Member, Sealing};
use crate::failure::Failure;
use crate::log;
use crate::proto::WireguardAttachment;

/// Client, address and port.
const PLACE_BYTES: usize = 4 + 16 + 2;

impl Sealing {
    /// Takes over the clients whose ports are there already, and ends with others.
    pub(super) fn restore_clients(&self, clients: &[(u32, WireguardAttachment)]) {
        let mut core = self.core();
        let numbers: BTreeSet<u32> = clients.iter().map(|(id, _)| client_number(*id)).collect();
        let known = core.peers.range(CLIENT_BIT..).map(|(number, _)| *number);
        let gone: Vec<u32> = known.filter(|number| !numbers.contains(number)).collect();
        for number in gone {
            core.remove(number);
        }
        for (endpoint_id, attachment) in clients {
            if let Err(failure) = core.restore_client(*endpoint_id, attachment) {
                log::warn(
                    "a client was not taken over",
                    json!({ "endpoint_id": endpoint_id, "error": failure.to_string() }),
                );
            }
        }
        self.tell_kernel(core);
    }

    /// Answers a client from now on, as soon as there is a key; says whether it did not before.
    pub(crate) fn admit_client(
        &self,
        endpoint_id: u32,
        attachment: &WireguardAttachment,
    ) -> Result<bool, Failure> {
        let peer = SealedPeer::parse_client(attachment)?;
        let number = client_number(endpoint_id);
        let mut core = self.core();
        let Core { peers, running } = &mut *core;
        if let Some(Member { peer: known, .. }) = peers.get(&number) {
            return peer.check_same(known, endpoint_id).map(|()| false);
        }
        let key = peer.config.public_key;
        if running.as_ref().is_some_and(|running| running.settings.key.public() == key) {
            return Err(Failure::client_key_taken(&key, "this host"));
        }
        if let Some(number) = holder(peers, &key) {
            let name = client_endpoint(number)
                .map_or_else(|| format!("host {number}"), |id| format!("endpoint {id}"));
            return Err(Failure::client_key_taken(&key, &name));
        }
        if peers.len() >= PEERS_MAX {
            return Err(Failure::too_many_peers(PEERS_MAX));
        }
        let member = Member { peer, vnis: Vec::new() };
        if let Some(running) = running {
            running.put(number, &member);
        }
        peers.insert(number, member);
        self.tell_kernel(core);
        Ok(true)
    }

    /// Ends a client's sessions and answers it no more. Harmless where there is none.
    pub(crate) fn expel_client(&self, endpoint_id: u32) {
        let mut core = self.core();
        core.remove(client_number(endpoint_id));
        if let Some(running) = &mut core.running {
            // The next process must not answer it when this is answered.
            running.save();
        }
    }
}

impl Core {
    fn restore_client(
        &mut self,
        endpoint_id: u32,
        attachment: &WireguardAttachment,
    ) -> Result<(), Failure> {
        let number = client_number(endpoint_id);
        let peer = SealedPeer::parse_client(attachment)?;
        let is_known = self
            .peers
            .get(&number)
            .is_some_and(|Member { peer: known, .. }| peer.check_same(known, endpoint_id).is_ok());
        if is_known {
            return Ok(());
        }
        self.remove(number);
        let member = Member { peer, vnis: Vec::new() };
        if let Some(running) = &mut self.running {
            running.put(number, &member);
        }
        self.peers.insert(number, member);
        Ok(())
    }

    /// Makes room for hosts whose keys clients claim: only one of the two can have a key, and anybody
    /// may have attached the other. Says whether there was one.
    pub(super) fn expel_impostors(&mut self, hosts: &BTreeMap<u32, SealedPeer>) -> bool {
        let clients = self.peers.range(CLIENT_BIT..);
        let by_key: HashMap<[u8; 32], u32> =
            clients.map(|(number, client)| (client.peer.config.public_key, *number)).collect();
        let mut was_any = false;
        for (host_id, host) in hosts {
            let Some(number) = by_key.get(&host.config.public_key) else { continue };
            self.remove(*number);
            was_any = true;
            log::warn(
                "a client has the key of a host, and is answered no more",
                json!({ "endpoint_id": client_endpoint(*number), "host_id": host_id }),
            );
        }
        was_any
    }
}

fn holder(peers: &BTreeMap<u32, Member>, key: &[u8; 32]) -> Option<u32> {
    let is_its = |member: &Member| member.peer.config.public_key == *key;
    peers.iter().find(|(_, member)| is_its(member)).map(|(number, _)| *number)
}

/// Where clients were last, for the process after this one: they seal by sessions that died with it
/// and would find out late, and nobody else knows where they are.
#[derive(Debug)]
pub(super) struct Places {
    path: PathBuf,
    by_client: BTreeMap<u32, SocketAddr>,
    is_saved: bool,
}

impl Places {
    /// A file that cannot be read names nobody: then clients find out by themselves.
    pub(super) fn load(folder: &Path) -> Self {
        let path = folder.join("sealing.clients");
        let bytes = fs::read(&path).unwrap_or_default();
        let by_client = bytes.as_chunks::<PLACE_BYTES>().0.iter().map(decode).collect();
        Self { path, by_client, is_saved: true }
    }

    pub(super) fn get(&self, number: u32) -> Option<SocketAddr> {
        self.by_client.get(&number).copied()
    }

    /// Takes note of where a peer is, if it is a client.
    pub(super) fn note(&mut self, number: u32, place: SocketAddr) {
        if client_endpoint(number).is_some() {
            self.is_saved &= self.by_client.insert(number, place) == Some(place);
        }
    }

    /// Forgets clients that are no ports any more.
    pub(super) fn retain(&mut self, is_known: impl Fn(u32) -> bool) {
        let before = self.by_client.len();
        self.by_client.retain(|number, _| is_known(*number));
        self.is_saved &= self.by_client.len() == before;
    }

    pub(super) fn forget(&mut self, number: u32) {
        self.is_saved &= self.by_client.remove(&number).is_none();
    }

    /// Writes down what is new.
    pub(super) fn keep(&mut self) {
        if std::mem::replace(&mut self.is_saved, true) {
            return;
        }
        let bytes: Vec<u8> = self.by_client.iter().flat_map(encode).collect();
        let new = self.path.with_extension("new");
        if let Err(error) = fs::write(&new, bytes).and_then(|()| fs::rename(&new, &self.path)) {
            log::warn(
                "it was not written down where clients are",
                json!({ "error": error.to_string() }),
            );
        }
    }
}

fn encode((number, place): (&u32, &SocketAddr)) -> [u8; PLACE_BYTES] {
    let address = match place.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut bytes = [0; PLACE_BYTES];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes[4..20].copy_from_slice(&address.octets());
    bytes[20..].copy_from_slice(&place.port().to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; PLACE_BYTES]) -> (u32, SocketAddr) {
    let [a, b, c, d, address @ .., high, low] = *bytes;
    let address = IpAddr::V6(Ipv6Addr::from(address)).to_canonical();
    let place = SocketAddr::new(address, u16::from_be_bytes([high, low]));
    (u32::from_be_bytes([a, b, c, d]), place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_knows_where_clients_were() {
        let folder = std::env::temp_dir().join(format!("weft-places-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let [here, there] =
            ["192.0.2.7:51820", "[2001:db8::7]:9"].map(|text| text.parse().unwrap());
        let (one, other, gone) = (client_number(1), client_number(2), client_number(3));
        let mut places = Places::load(&folder);
        for (number, place) in [(one, here), (other, there), (gone, here), (7, here)] {
            places.note(number, place);
        }
        places.forget(gone);
        places.keep();
        let next = Places::load(&folder);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((next.get(one), next.get(other)), (Some(here), Some(there)));
        assert_eq!((next.get(gone), next.get(7)), (None, None));
    }
}
