//! The calls of the forwarder that concern the sealed carrier.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Sealing;
use super::parse::Settings;
use super::report::Report;
use super::revocations::{self, Passed};
use crate::failure::Failure;
use crate::log;
use crate::proto::sealing_service_server;
use crate::proto::{self, WatchSealedResponse};

/// Of one peer at most one change in it.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Of some 150 bytes each.
const CONNECTIONS_PER_CHUNK_MAX: usize = 512;
const CHUNKS_IN_FLIGHT_MAX: usize = 4;

/// The service.
#[derive(Clone)]
pub(crate) struct SealingService {
    sealing: Arc<Sealing>,
}

impl SealingService {
    pub(crate) const fn new(sealing: Arc<Sealing>) -> Self {
        Self { sealing }
    }
}

#[tonic::async_trait]
impl sealing_service_server::SealingService for SealingService {
    type WatchSealedStream =
        Pin<Box<dyn Stream<Item = Result<WatchSealedResponse, Status>> + Send>>;

    async fn configure_sealing(
        &self,
        request: Request<proto::ConfigureSealingRequest>,
    ) -> Result<Response<proto::ConfigureSealingResponse>, Status> {
        let request = request.into_inner();
        // Not among the settings: it is true now alone.
        let trusted = Duration::from_millis(request.trusted_unix_ms);
        let settings = Settings::parse(request)?;
        let sealing = Arc::clone(&self.sealing);
        let configured =
            tokio::task::spawn_blocking(move || sealing.configure(settings)).await.unwrap_or_else(
                |error| Err(Failure::internal(format!("the call broke off: {error}"))),
            )?;
        if !trusted.is_zero() {
            self.sealing.trust_time(trusted);
        }
        log::info(
            "sealed carrier configured",
            serde_json::json!({ "port": configured.listen_port, "key_logged": configured.key_logged }),
        );
        Ok(Response::new(configured))
    }

    async fn tell_revocations(
        &self,
        request: Request<proto::TellRevocationsRequest>,
    ) -> Result<Response<proto::TellRevocationsResponse>, Status> {
        let statements = revocations::parse(request.into_inner().statements)?;
        self.sealing.tell_revocations(statements);
        Ok(Response::new(proto::TellRevocationsResponse {}))
    }

    async fn watch_sealed(
        &self,
        _request: Request<proto::WatchSealedRequest>,
    ) -> Result<Response<Self::WatchSealedStream>, Status> {
        let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
        tokio::spawn(watch(Arc::clone(&self.sealing), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Tells everything, then what is different once a second, and what peers pass on at once.
async fn watch(sealing: Arc<Sealing>, sender: mpsc::Sender<Result<WatchSealedResponse, Status>>) {
    let mut told = Told::default();
    let mut passed_count = 0;
    let mut ticks = interval(REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut chunks = Vec::new();
        tokio::select! {
            _ = ticks.tick() => chunks = told.changes(sealing.report()),
            // Whoever does not wait at that moment looks a second later.
            () = sealing.news.notified(), if told.has_begun() => {}
            () = sender.closed() => return,
        }
        let (passed, count) = sealing.passed_since(passed_count);
        passed_count = count;
        chunks.extend(told.passed_on(&passed));
        for chunk in chunks {
            if sender.send(Ok(chunk)).await.is_err() {
                return;
            }
        }
    }
}

/// Host and endpoint, one of which is 0.
type Name = (u32, u32);

/// What the other side of a stream knows.
#[derive(Default)]
struct Told {
    revision: u64,
    connections: HashMap<Name, proto::OpenConnection>,
    observed: Option<Vec<proto::Candidate>>,
}

impl Told {
    fn has_begun(&self) -> bool {
        self.revision > 0
    }

    fn passed_on(&self, passed: &[Passed]) -> Option<WatchSealedResponse> {
        let revocations = passed.iter().map(|passed| proto::PassedRevocations {
            host_id: passed.host_id,
            statement: passed.statement.to_vec(),
        });
        (!passed.is_empty()).then(|| WatchSealedResponse {
            revocations: revocations.collect(),
            revision: self.revision,
            snapshot_complete: true,
            ..WatchSealedResponse::default()
        })
    }

    /// What is to be told now: the first time everything, even if that is nothing.
    fn changes(&mut self, report: Report) -> Vec<WatchSealedResponse> {
        let Report { connections, observed } = report;
        let mut known = std::mem::take(&mut self.connections);
        let mut changed = Vec::new();
        for connection in connections {
            let name = (connection.host_id, connection.endpoint_id);
            if known.remove(&name).as_ref() != Some(&connection) {
                changed.push(connection.clone());
            }
            self.connections.insert(name, connection);
        }
        let gone: Vec<Name> = known.into_keys().collect();
        let is_first = self.revision == 0;
        let is_moved = self.observed.as_ref() != Some(&observed);
        if !is_first && !is_moved && changed.is_empty() && gone.is_empty() {
            return Vec::new();
        }
        self.revision += 1;
        let mut chunks: Vec<WatchSealedResponse> = changed
            .chunks(CONNECTIONS_PER_CHUNK_MAX)
            .map(|connections| WatchSealedResponse {
                connections: connections.to_vec(),
                revision: self.revision,
                snapshot_complete: !is_first,
                ..WatchSealedResponse::default()
            })
            .collect();
        if chunks.is_empty() {
            chunks.push(WatchSealedResponse { revision: self.revision, ..Default::default() });
        }
        if let Some(last) = chunks.last_mut() {
            last.snapshot_complete = true;
            let of = |id: fn(&Name) -> u32| gone.iter().map(id).filter(|id| *id != 0).collect();
            last.gone_host_ids = of(|(host_id, _)| *host_id);
            last.gone_endpoint_ids = of(|(_, endpoint_id)| *endpoint_id);
            last.observed =
                is_moved.then(|| proto::ObservedAddresses { candidates: observed.clone() });
        }
        self.observed = Some(observed);
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(hosts: &[(u32, u64)]) -> Report {
        let connections = hosts.iter().map(|(host_id, rtt_us)| proto::OpenConnection {
            host_id: *host_id,
            rtt_us: *rtt_us,
            ..Default::default()
        });
        Report { connections: connections.collect(), observed: Vec::new() }
    }

    #[test]
    fn a_stream_begins_with_everything_and_goes_on_with_what_is_different() {
        let mut told = Told::default();
        let first = told.changes(report(&[(1, 10), (2, 20)]));
        assert_eq!(first.len(), 1);
        assert!(first[0].snapshot_complete && first[0].connections.len() == 2);
        assert!(told.changes(report(&[(1, 10), (2, 20)])).is_empty());
        let next = told.changes(report(&[(1, 11)]));
        assert_eq!(next[0].connections.len(), 1);
        assert_eq!(next[0].gone_host_ids, [2]);
        assert_eq!(next[0].revision, 2);
    }

    #[test]
    fn a_client_goes_without_the_host_of_the_same_number() {
        let mut told = Told::default();
        let mut both = report(&[(7, 10), (0, 20)]);
        both.connections[1].endpoint_id = 7;
        assert_eq!(told.changes(both)[0].connections.len(), 2);
        let next = told.changes(report(&[(7, 10)]));
        assert_eq!(
            (&next[0].gone_host_ids[..], &next[0].gone_endpoint_ids[..]),
            (&[][..], &[7][..])
        );
    }

    #[test]
    fn a_stream_without_peers_says_so_once() {
        let mut told = Told::default();
        let first = told.changes(report(&[]));
        assert!(first.len() == 1 && first[0].snapshot_complete && first[0].connections.is_empty());
        assert!(told.changes(report(&[])).is_empty());
    }

    #[test]
    fn a_large_snapshot_comes_in_chunks_of_which_the_last_is_marked() {
        let hosts: Vec<(u32, u64)> = (1..=1200).map(|host| (host, 1)).collect();
        let chunks = Told::default().changes(report(&hosts));
        let marks: Vec<bool> = chunks.iter().map(|chunk| chunk.snapshot_complete).collect();
        assert_eq!(marks, [false, false, true]);
        assert_eq!(chunks.iter().map(|chunk| chunk.connections.len()).sum::<usize>(), 1200);
    }
}
