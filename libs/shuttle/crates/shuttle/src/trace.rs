//! Spans of traced calls, as lines of a file that other services append to as well.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::Path;

use serde_json::{Value, json};
use tonic::metadata::MetadataMap;

use crate::log;

/// Appends finished spans to a file, one JSON object a line. A short append is one write, so
/// several processes may share the file.
#[derive(Debug)]
pub(crate) struct Tracer {
    file: Option<File>,
}

/// A call that is traced, from its caller's span on.
#[derive(Debug)]
pub(crate) struct Span {
    trace_id: String,
    parent_id: String,
    id: String,
    name: &'static str,
    start_us: u64,
}

impl Tracer {
    pub(crate) fn open(path: Option<&Path>) -> io::Result<Self> {
        let file =
            path.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        Ok(Self { file })
    }

    /// Begins a span when the caller sent a sampled trace context and somebody keeps spans.
    pub(crate) fn begin(&self, name: &'static str, metadata: &MetadataMap) -> Option<Span> {
        self.file.as_ref()?;
        let header = metadata.get("traceparent")?.to_str().ok()?;
        let (trace_id, parent_id) = parse_traceparent(header)?;
        let start_us = log::now_us();
        Some(Span { trace_id, parent_id, id: random_id()?, name, start_us })
    }

    /// Ends a span.
    pub(crate) fn end(&self, span: Option<Span>, attributes: &Value, error: Option<&str>) {
        let (Some(mut file), Some(span)) = (self.file.as_ref(), span) else { return };
        let line = json!({
            "traceId": span.trace_id,
            "spanId": span.id,
            "parentSpanId": span.parent_id,
            "service": "shuttle",
            "name": span.name,
            "startUs": span.start_us,
            "endUs": log::now_us(),
            "attributes": attributes,
            "error": error,
        });
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            log::warn("a span was not written", json!({ "error": error.to_string() }));
        }
    }
}

/// Trace and parent of a sampled context (W3C Trace Context, 3.2).
pub(crate) fn parse_traceparent(header: &str) -> Option<(String, String)> {
    let mut parts = header.split('-');
    let (version, trace_id, parent_id, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    (is_hex(version, 2)
        && version != "ff"
        && is_hex(trace_id, 32)
        && is_hex(parent_id, 16)
        && is_sampled)
        .then(|| (trace_id.to_owned(), parent_id.to_owned()))
}

fn random_id() -> Option<String> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom").ok()?.read_exact(&mut bytes).ok()?;
    Some(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_sampled_context_is_taken() {
        let header = format!("00-{TRACE}-00f067aa0ba902b7-01");
        assert_eq!(
            parse_traceparent(&header),
            Some((TRACE.to_owned(), "00f067aa0ba902b7".to_owned()))
        );
    }

    #[test]
    fn what_is_not_sampled_or_not_a_context_is_left() {
        for header in [
            format!("00-{TRACE}-00f067aa0ba902b7-00"),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f0-01"),
            "nonsense".to_owned(),
        ] {
            assert_eq!(parse_traceparent(&header), None, "{header}");
        }
    }
}
