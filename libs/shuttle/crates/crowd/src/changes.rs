//! A round in which all hosts change their keys again and again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::args::Changes;

/// Host for host: how often it has begun to change its keys, and since when it does.
pub(crate) struct Round {
    plan: Changes,
    began: Instant,
    rows: Vec<Row>,
    /// How long each of them took, in nanoseconds.
    times: Vec<u64>,
    pub(crate) is_told: bool,
}

struct Row {
    /// Not all change at once: each has its place in the interval.
    offset: Duration,
    begun: u32,
    since: Option<Instant>,
}

impl Round {
    pub(crate) fn new(plan: Changes, hosts: u32) -> Self {
        let offset = |at| plan.every * at / hosts;
        let rows = (0..hosts).map(|at| Row { offset: offset(at), begun: 0, since: None }).collect();
        Self { plan, began: Instant::now(), rows, times: Vec::new(), is_told: false }
    }

    /// Whether a host is to change its keys now; one that still does is waited for.
    pub(crate) fn is_due(&self, at: usize) -> bool {
        let Row { offset, begun, since } = &self.rows[at];
        let is_its_turn = self.began.elapsed() >= self.plan.every * *begun + *offset;
        since.is_none() && *begun < self.plan.count && is_its_turn
    }

    pub(crate) fn note_begun(&mut self, at: usize) {
        let row = &mut self.rows[at];
        row.begun += 1;
        row.since = Some(Instant::now());
    }

    /// The host has a session by which both sides send.
    pub(crate) fn note_established(&mut self, at: usize) {
        if let Some(since) = self.rows[at].since.take() {
            self.times.push(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Whether all of them are done, or nobody waits for the rest any more.
    pub(crate) fn is_over(&self, give_up: Duration) -> bool {
        let is_done = |row: &Row| row.begun == self.plan.count && row.since.is_none();
        let planned = self.plan.every * self.plan.count;
        self.rows.iter().all(is_done) || self.began.elapsed() > planned + give_up
    }

    pub(crate) fn report(&self, number: usize) -> Value {
        let mut times = self.times.clone();
        times.sort_unstable();
        json!({
            "event": format!("changed {number}"),
            "begun": self.rows.iter().map(|row| row.begun).sum::<u32>(),
            "done": times.len(),
            "p50_ns": times.get(times.len() / 2),
            "longest_ns": times.last(),
        })
    }
}
