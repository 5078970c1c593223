//! From messages to the engine's types; what cannot be is refused here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_abi::DropReason;
use weft_engine::{Change, Endpoint, Flow, FlowTarget, Mac, Network, Peer, PeerKind, Prefix};

use crate::failure::Failure;
use crate::proto::{self, Carrier, FlowAction, table_change};
use crate::sealing::{self, SealedPeer};

pub(crate) fn network(message: &proto::Network) -> Result<Network, Failure> {
    let id = message.network_id;
    let gateway = |bytes: &[u8]| match bytes {
        [] => Ok(None),
        bytes => address(bytes)
            .map(Some)
            .map_err(|failure| Failure::invalid(format!("network {id}: {failure}"))),
    };
    let (gateway_ipv4, gateway_ipv6) =
        match (gateway(&message.gateway_ipv4)?, gateway(&message.gateway_ipv6)?) {
            (Some(IpAddr::V6(_)), _) | (_, Some(IpAddr::V4(_))) => {
                return Err(Failure::invalid(format!(
                    "network {id}: a gateway is of the other family"
                )));
            }
            (gateway_ipv4, gateway_ipv6) => {
                (gateway_ipv4.and_then(to_v4), gateway_ipv6.and_then(to_v6))
            }
        };
    Ok(Network {
        network_id: id,
        vni: message.vni,
        mtu_bytes: message.mtu_bytes,
        gateway_ipv4,
        gateway_ipv6,
    })
}

fn to_v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn to_v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

pub(crate) fn endpoint(message: &proto::Endpoint) -> Result<Endpoint, Failure> {
    let id = message.endpoint_id;
    let of_endpoint = |failure: Failure| Failure::invalid(format!("endpoint {id}: {failure}"));
    let mac = <[u8; 6]>::try_from(message.mac.as_slice()).map_err(|_| {
        Failure::invalid(format!("endpoint {id}: a MAC has 6 bytes, not {}", message.mac.len()))
    })?;
    let addresses: Result<_, _> = message.addresses.iter().map(|bytes| address(bytes)).collect();
    let allowed_prefixes: Result<_, _> = message
        .allowed_prefixes
        .iter()
        .map(|prefix| {
            Ok(Prefix {
                address: address(&prefix.address)?,
                length_bits: u8::try_from(prefix.length_bits).map_err(|_| {
                    Failure::invalid(format!("no prefix has {} bits", prefix.length_bits))
                })?,
            })
        })
        .collect();
    Ok(Endpoint {
        endpoint_id: id,
        network_id: message.network_id,
        mac: Mac(mac),
        addresses: addresses.map_err(of_endpoint)?,
        allowed_prefixes: allowed_prefixes.map_err(of_endpoint)?,
        host_id: message.host_id,
    })
}

fn peer(message: proto::Peer) -> Result<Peer, Failure> {
    let id = message.host_id;
    let of_host = |failure: Failure| Failure::invalid(format!("host {id}: {failure}"));
    let kind = match message.carrier() {
        Carrier::Vxlan => PeerKind::Vxlan {
            local_address: address(&message.local_address).map_err(of_host)?,
            remote_address: address(&message.remote_address).map_err(of_host)?,
            is_foreign: message.foreign,
        },
        Carrier::Sealed => PeerKind::Sealed,
        Carrier::None | Carrier::Unspecified => {
            return Err(Failure::invalid(format!("host {id}: it has no carrier")));
        }
    };
    Ok(Peer { host_id: id, kind, network_ids: message.network_ids.into_iter().collect() })
}

/// The carrier whose entry of a host is to be deleted; `None` for all.
fn deleted_carrier(carrier: Carrier) -> Result<Option<weft_abi::Carrier>, Failure> {
    match carrier {
        Carrier::Unspecified => Ok(None),
        Carrier::Vxlan => Ok(Some(weft_abi::Carrier::Vxlan)),
        Carrier::Sealed => Ok(Some(weft_abi::Carrier::Sealed)),
        Carrier::None => Err(Failure::invalid("no host has an entry of the carrier none")),
    }
}

/// What a change says of a sealed peer beyond the tables: taken out of the message.
pub(crate) fn note_sealed(
    message: &mut proto::TableChange,
    changes: &mut sealing::Changes,
) -> Result<(), Failure> {
    let carrier = message.delete_peer_carrier();
    match &mut message.change {
        Some(table_change::Change::PutPeer(peer)) if peer.carrier() == Carrier::Sealed => {
            let id = peer.host_id;
            let sealed = peer.sealed.take();
            let sealed = sealed
                .ok_or_else(|| Failure::invalid(format!("host {id}: a sealed peer has no keys")))?;
            let sealed = SealedPeer::parse(sealed)
                .map_err(|failure| Failure::invalid(format!("host {id}: {failure}")))?;
            changes.put.insert(id, sealed);
        }
        Some(table_change::Change::DeletePeerHostId(id))
            if matches!(carrier, Carrier::Unspecified | Carrier::Sealed) =>
        {
            changes.deleted.insert(*id);
        }
        _ => {}
    }
    Ok(())
}

pub(crate) fn change(message: proto::TableChange) -> Result<Change, Failure> {
    let carrier = message.delete_peer_carrier();
    Ok(match message.change.ok_or_else(|| Failure::invalid("a change says nothing"))? {
        table_change::Change::PutNetwork(message) => Change::PutNetwork(network(&message)?),
        table_change::Change::DeleteNetworkId(id) => Change::DeleteNetwork(id),
        table_change::Change::PutEndpoint(message) => Change::PutEndpoint(endpoint(&message)?),
        table_change::Change::DeleteEndpointId(id) => Change::DeleteEndpoint(id),
        table_change::Change::PutPeer(message) => Change::PutPeer(peer(message)?),
        table_change::Change::DeletePeerHostId(id) => {
            Change::DeletePeer(id, deleted_carrier(carrier)?)
        }
    })
}

pub(crate) fn flow(message: &proto::Flow) -> Result<Flow, Failure> {
    let name = format!("flow {} to {}", message.source_endpoint_id, message.target_endpoint_id);
    let target = match message.action() {
        FlowAction::SameHost => FlowTarget::Port,
        FlowAction::Direct => match message.carrier() {
            Carrier::Vxlan => FlowTarget::Host(message.target_host_id),
            Carrier::Sealed => FlowTarget::Sealed(message.target_host_id),
            Carrier::None | Carrier::Unspecified => {
                return Err(Failure::invalid(format!("{name}: it has no carrier")));
            }
        },
        FlowAction::Drop => {
            let reason = DropReason::ALL.iter().find(|reason| reason.name() == message.drop_reason);
            let reason = reason.ok_or_else(|| {
                Failure::invalid(format!("{name}: {:?} is no reason to drop", message.drop_reason))
            })?;
            FlowTarget::Drop(*reason)
        }
        FlowAction::Unspecified => {
            return Err(Failure::invalid(format!("{name}: it has no action")));
        }
    };
    Ok(Flow {
        source_endpoint_id: message.source_endpoint_id,
        target_endpoint_id: message.target_endpoint_id,
        target,
        table_revision: message.table_revision,
    })
}

pub(crate) fn flow_message(flow: &Flow) -> proto::Flow {
    let mut message = proto::Flow {
        source_endpoint_id: flow.source_endpoint_id,
        target_endpoint_id: flow.target_endpoint_id,
        table_revision: flow.table_revision,
        ..proto::Flow::default()
    };
    match flow.target {
        FlowTarget::Port => {
            message.set_action(FlowAction::SameHost);
            message.set_carrier(Carrier::None);
        }
        FlowTarget::Host(host_id) => {
            message.set_action(FlowAction::Direct);
            message.set_carrier(Carrier::Vxlan);
            message.target_host_id = host_id;
        }
        FlowTarget::Sealed(host_id) => {
            message.set_action(FlowAction::Direct);
            message.set_carrier(Carrier::Sealed);
            message.target_host_id = host_id;
        }
        FlowTarget::Drop(reason) => {
            message.set_action(FlowAction::Drop);
            reason.name().clone_into(&mut message.drop_reason);
        }
    }
    message
}

pub(crate) fn address(bytes: &[u8]) -> Result<IpAddr, Failure> {
    match bytes.len() {
        4 => Ok(Ipv4Addr::from(*bytes.first_chunk::<4>().expect("4 bytes")).into()),
        16 => Ok(Ipv6Addr::from(*bytes.first_chunk::<16>().expect("16 bytes")).into()),
        length => Err(Failure::invalid(format!("an address has 4 or 16 bytes, not {length}"))),
    }
}

pub(crate) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_comes_back_as_it_went() {
        for target in [
            FlowTarget::Port,
            FlowTarget::Host(7),
            FlowTarget::Sealed(7),
            FlowTarget::Drop(DropReason::Refused),
        ] {
            let it =
                Flow { source_endpoint_id: 1, target_endpoint_id: 2, target, table_revision: 9 };
            assert_eq!(flow(&flow_message(&it)).unwrap(), it);
        }
    }

    #[test]
    fn a_sealed_peer_needs_no_addresses_and_a_plain_one_does() {
        let message = |carrier: Carrier| proto::Peer {
            host_id: 7,
            carrier: carrier.into(),
            network_ids: vec![1, 2],
            ..proto::Peer::default()
        };
        let sealed = Peer { host_id: 7, kind: PeerKind::Sealed, network_ids: [1, 2].into() };
        assert_eq!(peer(message(Carrier::Sealed)).unwrap(), sealed);
        for carrier in [Carrier::Vxlan, Carrier::None, Carrier::Unspecified] {
            assert!(peer(message(carrier)).is_err(), "{carrier:?}");
        }
    }

    #[test]
    fn a_host_is_deleted_by_the_carrier_that_is_named_or_by_all() {
        for (carrier, expected) in [
            (Carrier::Unspecified, None),
            (Carrier::Vxlan, Some(weft_abi::Carrier::Vxlan)),
            (Carrier::Sealed, Some(weft_abi::Carrier::Sealed)),
        ] {
            let message = proto::TableChange {
                change: Some(table_change::Change::DeletePeerHostId(7)),
                delete_peer_carrier: carrier.into(),
            };
            assert_eq!(change(message).unwrap(), Change::DeletePeer(7, expected));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = flow_message(&Flow {
            source_endpoint_id: 1,
            target_endpoint_id: 2,
            target: FlowTarget::Host(3),
            table_revision: 9,
        });
        for bad in [
            proto::Flow { action: 0, ..good.clone() },
            proto::Flow { carrier: Carrier::None.into(), ..good.clone() },
            proto::Flow { action: FlowAction::Drop.into(), drop_reason: "mood".into(), ..good },
        ] {
            assert!(flow(&bad).is_err(), "{bad:?}");
        }
        assert!(address(&[1, 2, 3]).is_err());
        let network_message = proto::Network {
            network_id: 1,
            gateway_ipv4: vec![0; 16],
            ..proto::Network::default()
        };
        assert!(network(&network_message).is_err());
    }
}
