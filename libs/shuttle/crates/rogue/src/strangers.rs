//! Those who know nothing but a public key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use weft_tunnel::{
    Engine, EngineConfig, LocalKey, Now, OsRandom, Output, PeerConfig, PeerId, PeerKind, Random,
};

use crate::{Outcome, key};

const PEER: PeerId = PeerId(1);

/// Every one is of another stranger, with a first MAC that is right.
pub(crate) fn initiations(public_key: &str, count: &str, file: &str) -> Outcome {
    let public_key = key(public_key)?;
    let count: usize = count.parse()?;
    let now = Now {
        monotonic: Duration::from_hours(1),
        unix: SystemTime::now().duration_since(UNIX_EPOCH)?,
    };
    let mut stored = Vec::new();
    for _ in 0..count {
        let mut private = [0; 32];
        OsRandom.fill(&mut private);
        let config = EngineConfig::new(LocalKey::new(&private));
        let mut engine = Engine::new(config, Box::new(OsRandom), now);
        let mut peer = PeerConfig::new(public_key, PeerKind::Stock);
        peer.candidates = vec![([192, 0, 2, 1], 9).into()];
        engine.add_peer(now, PEER, peer)?;
        engine.want_session(now, PEER);
        while let Some(output) = engine.poll_output() {
            if let Output::Transmit(transmit) = output {
                stored.extend_from_slice(&u32::try_from(transmit.bytes.len())?.to_le_bytes());
                stored.extend_from_slice(&transmit.bytes);
            }
        }
    }
    std::fs::write(file, stored)?;
    Ok(json!({ "written": count }))
}
