//! Log lines as JSON objects on standard output, in the form of the other services.

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

static HOST: OnceLock<String> = OnceLock::new();

/// Names the host in every line from now on.
pub(crate) fn set_host(name: &str) {
    // Called once, before the first line.
    let _ = HOST.set(name.to_owned());
}

pub(crate) fn info(message: &str, facts: Value) {
    write("info", message, facts);
}

/// Degraded, and healing by itself.
pub(crate) fn warn(message: &str, facts: Value) {
    write("warn", message, facts);
}

/// Somebody must act now.
pub(crate) fn error(message: &str, facts: Value) {
    write("error", message, facts);
}

fn write(level: &str, message: &str, facts: Value) {
    let mut line = Map::new();
    line.insert("level".into(), level.into());
    line.insert("time".into(), json!(now_us() / 1000));
    line.insert("service".into(), "shuttle".into());
    if let Some(host) = HOST.get().filter(|host| !host.is_empty()) {
        line.insert("host".into(), host.as_str().into());
    }
    if let Value::Object(facts) = facts {
        line.extend(facts);
    }
    line.insert("msg".into(), message.into());
    // Who reads the log may be gone; packets matter more.
    let _ = writeln!(std::io::stdout().lock(), "{}", Value::Object(line));
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
