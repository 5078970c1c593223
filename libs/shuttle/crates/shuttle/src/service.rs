//! The calls of the forwarder: decode, do, encode. What may block for longer than a map write runs
//! beside the control thread.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use weft_abi::{Counters, DropReason, Verdict};
use weft_engine::{Change, FlowKey, Miss};

use crate::convert;
use crate::doctor;
use crate::failure::Failure;
use crate::log;
use crate::ping;
use crate::plane::{Attached, Plane};
use crate::proto::shuttle_service_server::ShuttleService;
use crate::proto::{self, MissReason};
use crate::sealing::{self, Sealing};
use crate::trace::{Span, Tracer};

/// What the shuttle says that it is. Whoever builds it may say more than the crate knows, for
/// example a commit: `WEFT_BUILD_VERSION` at compile time.
const VERSION: &str = match option_env!("WEFT_BUILD_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Changes in one call: every endpoint that the kernel's tables take, as many again to be removed,
/// and some for networks and hosts.
const CHANGES_MAX: usize = 1 << 18;
/// Batches of misses on their way to a forwarder that does not read. Together 256 misses; the rest
/// waits with its packets.
const BATCHES_IN_FLIGHT_MAX: usize = 4;
/// So many batches go out at once, each as soon as there is a miss; beyond them misses gather until
/// the interval is over. That makes 4,000 messages a second at most.
const BATCHES_PER_INTERVAL_MAX: u32 = 4;
const BATCH_INTERVAL: Duration = Duration::from_millis(1);

/// The service.
#[derive(Clone)]
pub(crate) struct Service {
    plane: Arc<Plane>,
    sealing: Arc<Sealing>,
    tracer: Arc<Tracer>,
    /// As the machine was at the start: to try them out takes some milliseconds.
    features: Arc<[proto::Feature]>,
    /// Number of the stream of misses in force: an older one ends when it sees another number.
    streams: Arc<watch::Sender<u64>>,
    stream_count: Arc<AtomicU64>,
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub(crate) fn new(
        plane: Arc<Plane>,
        sealing: Arc<Sealing>,
        tracer: Tracer,
        features: Vec<proto::Feature>,
    ) -> Self {
        Self {
            plane,
            sealing,
            tracer: Arc::new(tracer),
            features: features.into(),
            streams: Arc::new(watch::Sender::new(0)),
            stream_count: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Does what may block, beside the control thread.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Plane) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let plane = Arc::clone(&self.plane);
        tokio::task::spawn_blocking(move || act(&plane))
            .await
            .unwrap_or_else(|error| Err(Failure::internal(format!("the call broke off: {error}"))))
    }

    fn end_span<T>(
        &self,
        span: Option<Span>,
        attributes: &serde_json::Value,
        result: &Result<T, Failure>,
    ) {
        let error = result.as_ref().err().map(ToString::to_string);
        self.tracer.end(span, attributes, error.as_deref());
    }

    async fn receive_tables(
        &self,
        mut stream: Streaming<proto::ApplyTablesRequest>,
    ) -> Result<(u64, usize), Failure> {
        let broken =
            |status: Status| Failure::invalid(format!("the stream of changes broke off: {status}"));
        let first = stream
            .next()
            .await
            .ok_or_else(|| Failure::invalid("there is not even a first chunk"))?;
        let mut chunk = first.map_err(broken)?;
        let (base, revision, local_host_id) =
            (chunk.base_revision, chunk.revision, chunk.local_host_id);
        let mut changes: Vec<Change> = Vec::new();
        let mut sealed = sealing::Changes { is_whole: base == 0, ..sealing::Changes::default() };
        loop {
            if changes.len() + chunk.changes.len() > CHANGES_MAX {
                return Err(Failure::too_large(format!(
                    "more than {CHANGES_MAX} changes in one call"
                )));
            }
            for mut message in chunk.changes {
                convert::note_sealed(&mut message, &mut sealed)?;
                changes.push(convert::change(message)?);
            }
            match stream.next().await {
                Some(next) => chunk = next.map_err(broken)?,
                None => break,
            }
        }
        let count = changes.len();
        let sealing = Arc::clone(&self.sealing);
        self.blocking(move |plane| {
            // Who is to be out is out first, whatever becomes of the tables.
            sealing.remove(&sealed);
            plane.apply_tables(base, revision, local_host_id, changes)?;
            sealing.put(sealed);
            Ok(())
        })
        .await?;
        Ok((revision, count))
    }
}

#[tonic::async_trait]
impl ShuttleService for Service {
    type HandleMissesStream = ResponseStream<proto::HandleMissesResponse>;
    type PingStream = ResponseStream<proto::PingResponse>;

    async fn get_info(
        &self,
        _request: Request<proto::GetInfoRequest>,
    ) -> Result<Response<proto::GetInfoResponse>, Status> {
        let report = self.blocking(Plane::report).await?;
        let devices = report.devices.into_iter().map(|(ifindex, device)| {
            let by = if device.is_by_programs() { "ebpf" } else { "device" };
            proto::UnderlayDevice {
                ifindex,
                encapsulation: by.to_owned(),
                decapsulation: by.to_owned(),
                reason: device.reason().to_owned(),
                name: device.name,
                addresses: device.addresses.into_iter().map(convert::address_bytes).collect(),
                mtu_bytes: device.mtu_bytes,
            }
        });
        Ok(Response::new(proto::GetInfoResponse {
            version: VERSION.to_owned(),
            abi: weft_abi::ABI,
            instance_id: report.instance_id,
            table_revision: report.table_revision,
            local_host_id: report.local_host_id,
            kernel: doctor::kernel_release(),
            features: self.features.to_vec(),
            underlay_devices: devices.collect(),
            flow_count: u32::try_from(report.flow_count).unwrap_or(u32::MAX),
            flow_count_max: self.plane.config().limits.flows,
            host_verdicts: verdicts(&report.counters),
            host_drops: drops(&report.counters),
            sealed: self.sealing.counters(),
        }))
    }

    async fn apply_tables(
        &self,
        request: Request<Streaming<proto::ApplyTablesRequest>>,
    ) -> Result<Response<proto::ApplyTablesResponse>, Status> {
        let span = self.tracer.begin("shuttle apply tables", request.metadata());
        let result = self.receive_tables(request.into_inner()).await;
        let facts = result.as_ref().map_or(
            json!({}),
            |(revision, count)| json!({ "revision": revision, "changes": count }),
        );
        self.end_span(span, &facts, &result);
        Ok(Response::new(proto::ApplyTablesResponse { revision: result?.0 }))
    }

    async fn attach_port(
        &self,
        request: Request<proto::AttachPortRequest>,
    ) -> Result<Response<proto::AttachPortResponse>, Status> {
        let span = self.tracer.begin("shuttle attach port", request.metadata());
        let request = request.into_inner();
        let endpoint_id = request.endpoint.as_ref().map_or(0, |endpoint| endpoint.endpoint_id);
        let sealing = Arc::clone(&self.sealing);
        let result = self.blocking(move |plane| attach(plane, &sealing, request)).await;
        self.end_span(span, &json!({ "endpoint_id": endpoint_id }), &result);
        let attached = result?;
        log::info(
            "port attached",
            json!({ "endpoint_id": endpoint_id, "device": attached.host_device, "created": attached.is_new }),
        );
        Ok(Response::new(proto::AttachPortResponse {
            host_device: attached.host_device,
            ifindex: attached.ifindex,
            created: attached.is_new,
        }))
    }

    async fn detach_port(
        &self,
        request: Request<proto::DetachPortRequest>,
    ) -> Result<Response<proto::DetachPortResponse>, Status> {
        let span = self.tracer.begin("shuttle detach port", request.metadata());
        let endpoint_id = request.into_inner().endpoint_id;
        let sealing = Arc::clone(&self.sealing);
        let result = self.blocking(move |plane| {
            // Cut off first, whatever becomes of the port.
            sealing.expel_client(endpoint_id);
            plane.detach(endpoint_id)
        });
        let result = result.await;
        self.end_span(span, &json!({ "endpoint_id": endpoint_id }), &result);
        let detached = result?;
        if detached {
            log::info("port detached", json!({ "endpoint_id": endpoint_id }));
        }
        Ok(Response::new(proto::DetachPortResponse { detached }))
    }

    async fn list_ports(
        &self,
        _request: Request<proto::ListPortsRequest>,
    ) -> Result<Response<proto::ListPortsResponse>, Status> {
        let ports = self.blocking(Plane::ports).await?;
        let ports = ports.into_iter().map(|report| proto::Port {
            endpoint_id: report.endpoint_id,
            host_device: report.port.host_device,
            ifindex: report.port.ifindex,
            attachment: report.port.request.and_then(|request| request.attachment).map(
                |attachment| match attachment {
                    proto::attach_port_request::Attachment::Netns(netns) => {
                        proto::port::Attachment::Netns(netns)
                    }
                    proto::attach_port_request::Attachment::Tap(tap) => {
                        proto::port::Attachment::Tap(tap)
                    }
                    proto::attach_port_request::Attachment::Wireguard(client) => {
                        let preshared_key = Vec::new();
                        let client = proto::WireguardAttachment { preshared_key, ..client };
                        proto::port::Attachment::Wireguard(client)
                    }
                },
            ),
            lost: report.is_lost,
            counters: Some(proto::Counters {
                received_packets: report.counters.received_packets,
                received_bytes: report.counters.received_bytes,
                sent_packets: report.counters.sent_packets,
                sent_bytes: report.counters.sent_bytes,
                verdicts: verdicts(&report.counters),
                drops: drops(&report.counters),
            }),
        });
        Ok(Response::new(proto::ListPortsResponse { ports: ports.collect() }))
    }

    async fn handle_misses(
        &self,
        request: Request<Streaming<proto::HandleMissesRequest>>,
    ) -> Result<Response<Self::HandleMissesStream>, Status> {
        let number = self.stream_count.fetch_add(1, Ordering::Relaxed) + 1;
        self.streams.send_replace(number);
        self.plane.handle_new_forwarder();
        let (sender, receiver) = mpsc::channel(BATCHES_IN_FLIGHT_MAX);
        tokio::spawn(send_misses(
            Arc::clone(&self.plane),
            sender,
            self.streams.subscribe(),
            number,
        ));
        tokio::spawn(receive_answers(
            self.clone(),
            request.into_inner(),
            self.streams.subscribe(),
            number,
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn apply_flows(
        &self,
        request: Request<proto::ApplyFlowsRequest>,
    ) -> Result<Response<proto::ApplyFlowsResponse>, Status> {
        let request = request.into_inner();
        let flows = request.put.iter().map(convert::flow).collect::<Result<Vec<_>, _>>()?;
        let keys: Vec<FlowKey> = request
            .delete
            .iter()
            .map(|key| (key.source_endpoint_id, key.target_endpoint_id))
            .collect();
        let is_all = request.delete_all;
        let counts = self.blocking(move |plane| {
            let deleted = plane.delete_flows(if is_all { None } else { Some(&keys) })?;
            Ok((plane.put_flows(flows)?, deleted))
        });
        let (written, deleted) = counts.await?;
        Ok(Response::new(proto::ApplyFlowsResponse {
            written: u32::try_from(written).unwrap_or(u32::MAX),
            deleted: u32::try_from(deleted).unwrap_or(u32::MAX),
        }))
    }

    async fn list_flows(
        &self,
        _request: Request<proto::ListFlowsRequest>,
    ) -> Result<Response<proto::ListFlowsResponse>, Status> {
        let flows = self.blocking(Plane::flows).await?;
        let flows = flows.into_iter().map(|(flow, idle)| proto::FlowState {
            flow: Some(convert::flow_message(&flow)),
            idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
        });
        Ok(Response::new(proto::ListFlowsResponse { flows: flows.collect() }))
    }

    async fn ping(
        &self,
        request: Request<proto::PingRequest>,
    ) -> Result<Response<Self::PingStream>, Status> {
        let request = ping::Request::parse(&request.into_inner())?;
        let target = request.target;
        let source = request.source_endpoint_id;
        let socket =
            self.blocking(move |plane| plane.open_echo(&plane.netns_path(source)?, target)).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(ping::start(request, socket)?))))
    }
}

/// A client is answered before its port is there, and what it sends until then is dropped: who is
/// refused here gets no port.
fn attach(
    plane: &Plane,
    sealing: &Sealing,
    request: proto::AttachPortRequest,
) -> Result<Attached, Failure> {
    let Some(proto::attach_port_request::Attachment::Wireguard(client)) = &request.attachment
    else {
        return plane.attach(request);
    };
    let endpoint_id = request.endpoint.as_ref().map_or(0, |endpoint| endpoint.endpoint_id);
    let is_new = sealing.admit_client(endpoint_id, client)?;
    plane.attach(request).inspect_err(|_| {
        if is_new {
            sealing.expel_client(endpoint_id);
        }
    })
}

/// Hands misses over until the forwarder goes or another one comes. Nothing waits on an idle
/// system; a busy one gets batches.
async fn send_misses(
    plane: Arc<Plane>,
    sender: mpsc::Sender<Result<proto::HandleMissesResponse, Status>>,
    mut streams: watch::Receiver<u64>,
    number: u64,
) {
    let (mut interval_start, mut batches) = (Instant::now(), 0);
    loop {
        tokio::select! {
            () = plane.misses.notified() => {}
            () = sender.closed() => return,
            _ = streams.wait_for(|current| *current != number) => {
                // Whoever took over was not woken if this one was.
                plane.misses.notify_one();
                return;
            }
        }
        loop {
            if interval_start.elapsed() >= BATCH_INTERVAL {
                (interval_start, batches) = (Instant::now(), 0);
            } else if batches >= BATCHES_PER_INTERVAL_MAX {
                tokio::time::sleep(BATCH_INTERVAL.saturating_sub(interval_start.elapsed())).await;
                continue;
            }
            // Room first: what is taken and not sent would wait for its deadline.
            let Ok(room) = sender.reserve().await else { return };
            let misses = plane.poll_misses();
            if misses.is_empty() {
                break;
            }
            let misses = misses.iter().map(miss_message).collect();
            room.send(Ok(proto::HandleMissesResponse { misses }));
            batches += 1;
        }
    }
}

async fn receive_answers(
    service: Service,
    mut answers: Streaming<proto::HandleMissesRequest>,
    mut streams: watch::Receiver<u64>,
    number: u64,
) {
    loop {
        let message = tokio::select! {
            message = answers.next() => message,
            _ = streams.wait_for(|current| *current != number) => return,
        };
        let Some(Ok(message)) = message else { return };
        let unresolved: Vec<FlowKey> = message
            .unresolved
            .iter()
            .map(|miss| (miss.source_endpoint_id, miss.target_endpoint_id))
            .collect();
        service.plane.drop_unresolved(&unresolved);
        let (good, bad): (Vec<_>, Vec<_>) =
            message.flows.iter().map(convert::flow).partition(Result::is_ok);
        for failure in bad.into_iter().filter_map(Result::err) {
            log::warn("an answer was refused", json!({ "error": failure.to_string() }));
        }
        let flows = good.into_iter().filter_map(Result::ok).collect();
        let written = if service.plane.is_busy() {
            service.blocking(move |plane| plane.put_flows(flows)).await
        } else {
            service.plane.put_flows(flows)
        };
        if let Err(failure) = written {
            log::error("flows could not be written", json!({ "error": failure.to_string() }));
        }
    }
}

fn miss_message(miss: &Miss) -> proto::Miss {
    proto::Miss {
        source_endpoint_id: miss.source_endpoint_id,
        target_endpoint_id: miss.target_endpoint_id,
        reason: MissReason::NoFlow.into(),
        ethertype: miss.ethertype.into(),
        ip_protocol: miss.ip_protocol.into(),
        source_port: miss.source_port.into(),
        target_port: miss.target_port.into(),
        traceparent: String::new(),
    }
}

fn verdicts(counters: &Counters) -> BTreeMap<String, u64> {
    let counts =
        Verdict::ALL.iter().map(|verdict| (verdict.name().to_owned(), counters.verdict(*verdict)));
    counts.filter(|(_, count)| *count > 0).collect()
}

fn drops(counters: &Counters) -> BTreeMap<String, u64> {
    let counts =
        DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), counters.drop(*reason)));
    counts.filter(|(_, count)| *count > 0).collect()
}
