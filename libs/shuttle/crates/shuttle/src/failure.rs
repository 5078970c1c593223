//! Errors as they go to the forwarder: a code on which it may act, the facts, and the way out.

use std::collections::BTreeMap;
use std::fmt::Display;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use weft_engine::TableError;
use weft_io::NetlinkError;

use crate::proto::ErrorInfo;

/// Trailing metadata in which the error travels.
const ERROR_KEY: &str = "weft-error-bin";

/// Why a call failed. Nothing changed, unless the message says so.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    code: &'static str,
    grpc: Code,
    message: String,
    facts: BTreeMap<String, String>,
    remedy: String,
}

impl Failure {
    fn new(code: &'static str, grpc: Code, message: impl Into<String>, remedy: &str) -> Self {
        Self {
            code,
            grpc,
            message: message.into(),
            facts: BTreeMap::new(),
            remedy: remedy.to_owned(),
        }
    }

    fn fact(mut self, name: &str, value: impl Display) -> Self {
        self.facts.insert(name.to_owned(), value.to_string());
        self
    }

    /// What was wrong and the way out, for one who reads a log.
    pub(crate) fn with_remedy(&self) -> String {
        if self.remedy.is_empty() {
            self.message.clone()
        } else {
            format!("{}; {}", self.message, self.remedy)
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new("invalid-argument", Code::InvalidArgument, message, "")
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new("message-too-large", Code::InvalidArgument, message, "send less at once")
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new("internal", Code::Internal, message, "")
    }

    pub(crate) fn port_in_use(udp_port: u16) -> Self {
        Self::new(
            "port-in-use",
            Code::FailedPrecondition,
            format!(
                "UDP port {udp_port}, for frames between hosts, is in use by another tunnel or process"
            ),
            "see who has it with ss -ulnp and ip -d link show type vxlan, or give all hosts another --vxlan-port",
        )
        .fact("port", udp_port)
    }

    pub(crate) fn sealing_port_in_use(udp_port: u16) -> Self {
        Self::new(
            "port-in-use",
            Code::FailedPrecondition,
            format!(
                "UDP port {udp_port}, for sealed frames between hosts, is in use by another process"
            ),
            "see who has it with ss -ulnp, or give the host another port",
        )
        .fact("port", udp_port)
    }

    pub(crate) fn port_not_found(endpoint_id: u32) -> Self {
        Self::new(
            "port-not-found",
            Code::NotFound,
            format!("endpoint {endpoint_id} has no port at this host"),
            "list the ports of the host with: weft port ls",
        )
        .fact("endpoint", endpoint_id)
    }

    pub(crate) fn device_missing(device: &str) -> Self {
        Self::new(
            "device-missing",
            Code::NotFound,
            format!("there is no TAP device {device} in the host's namespace"),
            "list the devices with: ip link",
        )
        .fact("device", device)
    }

    pub(crate) fn device_taken(device: &str, path: &str) -> Self {
        Self::new(
            "device-name-taken",
            Code::FailedPrecondition,
            format!("{path} already has a device named {device}"),
            "choose another device name",
        )
        .fact("device", device)
        .fact("where", path)
    }

    /// `holder`: who has the key.
    pub(crate) fn client_key_taken(key: &[u8; 32], holder: &str) -> Self {
        let key = STANDARD.encode(key);
        Self::new(
            "client-key-taken",
            Code::FailedPrecondition,
            format!("the key {key} is that of {holder} already"),
            "give each client a key of its own",
        )
        .fact("key", key)
        .fact("holder", holder)
    }

    pub(crate) fn other_client_attached(endpoint_id: u32, key: &[u8; 32], problem: &str) -> Self {
        let key = STANDARD.encode(key);
        Self::new(
            "other-client-attached",
            Code::FailedPrecondition,
            format!(
                "endpoint {endpoint_id} is attached already, as the WireGuard client with key {key}: {problem}"
            ),
            "detach it first, which cuts it off: weft port detach",
        )
        .fact("endpoint", endpoint_id)
        .fact("key", key)
        .fact("problem", problem)
    }

    pub(crate) fn too_many_peers(peers_max: usize) -> Self {
        Self::new(
            "limit-reached",
            Code::FailedPrecondition,
            format!("there are {peers_max} hosts and WireGuard clients, and no more are possible"),
            "attach the client at another host",
        )
    }

    pub(crate) fn already_attached(device: &str, holder: u32) -> Self {
        Self::new(
            "device-already-attached",
            Code::FailedPrecondition,
            format!("{device} is already attached to endpoint {holder}"),
            "detach that endpoint first: weft port detach",
        )
        .fact("device", device)
        .fact("holder", holder)
    }

    pub(crate) fn attached_differently(endpoint_id: u32, device: &str) -> Self {
        Self::new(
            "device-already-attached",
            Code::FailedPrecondition,
            format!("endpoint {endpoint_id} is already attached, by {device}"),
            "detach it first: weft port detach",
        )
        .fact("device", device)
        .fact("holder", endpoint_id)
    }
}

impl From<weft_netns::Error> for Failure {
    fn from(error: weft_netns::Error) -> Self {
        let message = error.to_string();
        match error {
            weft_netns::Error::BadPath { .. } => Self::invalid(message),
            weft_netns::Error::Unreachable { .. } => Self::new(
                "unavailable",
                Code::Unavailable,
                message,
                "start weft-netns on this host",
            ),
            weft_netns::Error::Refused { path, .. } => Self::new(
                "netns-missing",
                Code::NotFound,
                message,
                "create it with: ip netns add NAME, and give /run/netns/NAME",
            )
            .fact("path", path.display()),
        }
    }
}

impl From<NetlinkError> for Failure {
    fn from(error: NetlinkError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Self {
        let message = error.to_string();
        match error {
            TableError::WrongBase { base, current } => Self::new(
                "revision-conflict",
                Code::Aborted,
                message,
                "send all tables, with base revision 0",
            )
            .fact("what", "tables")
            .fact("expected", base)
            .fact("actual", current),
            TableError::NotLater { .. } | TableError::BadEntry { .. } => Self::invalid(message),
        }
    }
}

impl From<weft_kernel::Error> for Failure {
    fn from(error: weft_kernel::Error) -> Self {
        let message = error.to_string();
        match error {
            weft_kernel::Error::TooManyTargets { .. } => {
                Self::new("limit-reached", Code::FailedPrecondition, message, "split the network")
            }
            weft_kernel::Error::NoDevice { .. } => Self::new(
                "device-missing",
                Code::NotFound,
                message,
                "list the devices with: ip link",
            ),
            weft_kernel::Error::Table(_) => Self::new(
                "limit-reached",
                Code::FailedPrecondition,
                message,
                "raise the limits of the shuttle",
            ),
            _ => Self::internal(message),
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let info = ErrorInfo {
            code: failure.code.to_owned(),
            message: failure.message.clone(),
            facts: failure.facts,
            remedy: failure.remedy,
        };
        let mut status = Self::new(failure.grpc, failure.message);
        status
            .metadata_mut()
            .insert_bin(ERROR_KEY, MetadataValue::from_bytes(&info.encode_to_vec()));
        status
    }
}
