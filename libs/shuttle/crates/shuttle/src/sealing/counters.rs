//! What the sealed carrier refused, and did in another way than the fastest.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use weft_lane::{Fallback, Offload, State};
use weft_seal::DropReason;
use weft_tunnel::Refusal;

use super::Sealing;
use super::clock::now;
use super::report::offload_states;
use super::running::Running;
use crate::proto;

/// By name, in the order of their numbers.
type Counts = Vec<(&'static str, u64)>;

/// What was counted since the socket was opened. Nothing in it is zero.
#[derive(Debug, Default)]
struct Counted {
    drops: Counts,
    fallbacks: Counts,
    refusals: Counts,
}

impl Counted {
    fn of(running: &Running) -> Self {
        let lanes = &running.lanes;
        let refusals = running.engine.engine_status(now()).refusals;
        let drops = DropReason::ALL.iter().map(|reason| (reason.name(), lanes.dropped(*reason)));
        let ways = Fallback::ALL.iter().map(|way| (way.name(), lanes.fell_back(*way)));
        let passed = running.revocations.counters;
        let passed =
            [("revocations_too_often", passed.too_often), ("revocations_unheard", passed.unheard)];
        let refused = Refusal::ALL.iter().map(|why| (why.name(), refusals.of(*why))).chain(passed);
        Self {
            drops: drops.filter(is_counted).collect(),
            fallbacks: ways.filter(is_counted).collect(),
            refusals: refused.filter(is_counted).collect(),
        }
    }
}

fn is_counted((_, count): &(&'static str, u64)) -> bool {
    *count > 0
}

impl Sealing {
    /// For the forwarder; `None` while nothing is sealed.
    pub(crate) fn counters(&self) -> Option<proto::SealedCounters> {
        let core = self.core();
        let running = core.running.as_ref()?;
        let Counted { drops, fallbacks, refusals } = Counted::of(running);
        Some(proto::SealedCounters {
            drops: by_name(drops),
            fallbacks: by_name(fallbacks),
            refusals: by_name(refusals),
            offloads: offload_states(running),
        })
    }

    /// For Prometheus; nothing while nothing is sealed.
    pub(crate) fn render_metrics(&self) -> String {
        let core = self.core();
        let Some(running) = &core.running else { return String::new() };
        let Counted { drops, fallbacks, refusals } = Counted::of(running);
        let states = Offload::ALL.map(|offload| {
            let is_used = running.lanes.offload(offload) == State::On;
            (offload.name(), u64::from(is_used))
        });
        let mut text = String::new();
        for (name, kind, help, label, samples) in [
            (
                "weft_sealed_drops_total",
                "counter",
                "Frames and datagrams of the sealed carrier that were dropped, by reason.",
                "reason",
                drops,
            ),
            (
                "weft_sealed_fallbacks_total",
                "counter",
                "Sends, receives and writes that went another way than the fastest, by way.",
                "way",
                fallbacks,
            ),
            (
                "weft_sealed_refusals_total",
                "counter",
                "Messages of handshakes and control frames that led to nothing, by reason.",
                "reason",
                refusals,
            ),
            (
                "weft_sealed_offload_in_use",
                "gauge",
                "1 while an offload is in use, 0 where it is switched off or refused.",
                "offload",
                states.to_vec(),
            ),
        ] {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (value, count) in samples {
                let _ = writeln!(text, "{name}{{{label}=\"{value}\"}} {count}");
            }
        }
        text
    }
}

fn by_name(counts: Counts) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}
