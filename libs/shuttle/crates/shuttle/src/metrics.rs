//! Counters for Prometheus: text format 0.0.4 over HTTP/1.0, one answer a connection.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use weft_abi::{Counters, DropReason, Verdict};

use crate::config::Listen;
use crate::failure::Failure;
use crate::log;
use crate::plane::Plane;
use crate::sealing::Sealing;

/// Connections served at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4;
const REQUEST_BYTES_MAX: usize = 4096;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Name, help and value of a counter that every port has.
type Total = (&'static str, &'static str, fn(&Counters) -> u64);

/// Where metrics are served, opened.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(crate) async fn open(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            Listen::Unix(path) => {
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                Ok(Self::Unix(UnixListener::bind(path)?))
            }
        }
    }

    /// Serves until the process ends.
    pub(crate) async fn serve(self, plane: Arc<Plane>, sealing: Arc<Sealing>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let (plane, sealing) = (Arc::clone(&plane), Arc::clone(&sealing));
            let accepted = match &self {
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(
                        async move { (answer(stream, plane, sealing).await, drop(permit)).0 },
                    );
                }),
                Self::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(
                        async move { (answer(stream, plane, sealing).await, drop(permit)).0 },
                    );
                }),
            };
            if let Err(error) = accepted {
                log::warn("a metrics connection failed", json!({ "error": error.to_string() }));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    plane: Arc<Plane>,
    sealing: Arc<Sealing>,
) {
    let Ok(Some(line)) = timeout(REQUEST_TIMEOUT, read_request(&mut stream)).await else { return };
    let (status, body) = if line.starts_with("GET /metrics ") {
        let rendered = tokio::task::spawn_blocking(move || render(&plane, &sealing)).await;
        match rendered {
            Ok(Ok(text)) => ("200 OK", text),
            _ => ("500 Internal Server Error", String::new()),
        }
    } else {
        ("404 Not Found", "metrics are at /metrics\n".to_owned())
    };
    let head = format!(
        "HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // A scraper that left in between misses one sample.
    let _ = timeout(REQUEST_TIMEOUT, async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}

/// The request's first line, once its headers are complete.
async fn read_request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut chunk = [0; 512];
        let length = stream.read(&mut chunk).await.ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&chunk[..length]);
        if bytes.len() > REQUEST_BYTES_MAX {
            return None;
        }
    }
    String::from_utf8(bytes).ok()?.lines().next().map(str::to_owned)
}

fn render(plane: &Plane, sealing: &Sealing) -> Result<String, Failure> {
    let report = plane.report()?;
    let ports = plane.ports()?;
    let mut text = String::new();
    let mut metric =
        |name: &str, kind: &str, help: &str, samples: &mut dyn Iterator<Item = (String, u64)>| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
    let one = |value: u64| std::iter::once((String::new(), value));
    let flow_count = u64::try_from(report.flow_count).unwrap_or(u64::MAX);
    let waiting_bytes = u64::try_from(report.waiting_bytes).unwrap_or(u64::MAX);
    metric(
        "weft_shuttle_table_revision",
        "gauge",
        "Revision of the tables in force.",
        &mut one(report.table_revision),
    );
    metric("weft_shuttle_flows", "gauge", "Flows in force.", &mut one(flow_count));
    metric(
        "weft_shuttle_waiting_bytes",
        "gauge",
        "Bytes of packets that wait for an answer.",
        &mut one(waiting_bytes),
    );
    let totals: [Total; 4] = [
        ("weft_port_received_packets_total", "Packets that endpoints sent.", |counters| {
            counters.received_packets
        }),
        ("weft_port_received_bytes_total", "Bytes that endpoints sent.", |counters| {
            counters.received_bytes
        }),
        ("weft_port_sent_packets_total", "Packets delivered to endpoints.", |counters| {
            counters.sent_packets
        }),
        ("weft_port_sent_bytes_total", "Bytes delivered to endpoints.", |counters| {
            counters.sent_bytes
        }),
    ];
    for (name, help, value) in totals {
        let samples = ports.iter().map(|port| {
            (format!("{{endpoint_id=\"{}\"}}", port.endpoint_id), value(&port.counters))
        });
        metric(name, "counter", help, &mut samples.into_iter());
    }
    // Endpoint 0 is the host: frames whose port is not known.
    let all = || {
        let host = std::iter::once((0, &report.counters));
        host.chain(ports.iter().map(|port| (port.endpoint_id, &port.counters)))
    };
    let verdicts = all().flat_map(|(id, counters)| {
        Verdict::ALL
            .iter()
            .map(move |verdict| (label(id, "verdict", verdict.name()), counters.verdict(*verdict)))
    });
    let drops = all().flat_map(|(id, counters)| {
        DropReason::ALL
            .iter()
            .map(move |reason| (label(id, "reason", reason.name()), counters.drop(*reason)))
    });
    metric(
        "weft_port_verdicts_total",
        "counter",
        "Packets by what happened to them.",
        &mut verdicts.filter(|(_, count)| *count > 0),
    );
    metric(
        "weft_port_drops_total",
        "counter",
        "Packets dropped, by reason.",
        &mut drops.filter(|(_, count)| *count > 0),
    );
    text.push_str(&sealing.render_metrics());
    Ok(text)
}

fn label(endpoint_id: u32, name: &str, value: &str) -> String {
    format!("{{endpoint_id=\"{endpoint_id}\",{name}=\"{value}\"}}")
}
