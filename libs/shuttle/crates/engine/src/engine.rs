//! Tables, flows and waiting packets together.

use std::time::Duration;

use weft_abi::DropReason;

use crate::flows::{Flow, FlowKey, Flows};
use crate::slow::SlowFrame;
use crate::tables::{FlowRefusal, Plan, Tables};
use crate::too_big::{self, Limits};
use crate::waiting::{Question, Waiting};

/// Misses handed to the forwarder at once.
pub const MISSES_PER_BATCH_MAX: usize = 64;

/// A first packet's facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss {
    /// Whose packet it is.
    pub source_endpoint_id: u32,
    /// To whom it goes.
    pub target_endpoint_id: u32,
    /// Of the payload.
    pub ethertype: u16,
    /// The upper protocol, 0 where it is not IP.
    pub ip_protocol: u8,
    /// Of TCP and UDP, 0 elsewhere.
    pub source_port: u16,
    /// Of TCP and UDP, 0 elsewhere.
    pub target_port: u16,
}

/// What a change of the tables voids: flows to delete in the kernel.
#[derive(Debug, Default)]
pub struct Applied {
    /// In no order, none twice.
    pub void_flows: Vec<FlowKey>,
}

/// The shuttle's decisions. Time is counted from any fixed moment.
#[derive(Debug, Default)]
pub struct Engine {
    tables: Tables,
    flows: Flows,
    waiting: Waiting,
}

impl Engine {
    /// The tables in force.
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The flows in force.
    pub const fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Bytes of the packets that wait.
    pub const fn waiting_bytes(&self) -> usize {
        self.waiting.bytes()
    }

    /// Takes a frame from the slow TAP and appends to `out` what goes back there at once. Frames
    /// with a purpose that is not known are ignored: they are of a newer program, which counts them
    /// as held.
    pub fn handle_frame(&mut self, frame: SlowFrame, now: Duration, out: &mut Vec<SlowFrame>) {
        let meta = frame.meta();
        match meta.purpose {
            weft_abi::SLOW_MISS => {
                let target_mac = frame.packet().target_mac;
                let question = Question::Flow { source_endpoint_id: meta.endpoint_id, target_mac };
                match self.tables.neighbour(meta.endpoint_id, target_mac) {
                    // The answer came while the frame was on its way.
                    Some(target) if self.flows.get((meta.endpoint_id, target)).is_some() => {
                        out.push(frame.into_resent());
                    }
                    _ => self.hold(question, frame, now, out),
                }
            }
            weft_abi::SLOW_NEIGHBOUR => match frame.packet().sought_neighbour() {
                Some(address) => {
                    let question =
                        Question::Neighbour { source_endpoint_id: meta.endpoint_id, address };
                    self.hold(question, frame, now, out);
                }
                None => out.push(frame.into_dropped(DropReason::Malformed)),
            },
            weft_abi::SLOW_MTU => {
                let limits = self.limits(meta.endpoint_id, u32::from(meta.mtu));
                let reply = limits.and_then(|limits| too_big::answer(&frame.packet(), limits));
                out.extend(reply.and_then(|ethernet| SlowFrame::to_source(&ethernet, &meta)));
                out.push(frame.into_dropped(DropReason::MtuExceeded));
            }
            _ => {}
        }
    }

    fn limits(&self, endpoint_id: u32, mtu_bytes: u32) -> Option<Limits> {
        let (_, network) = self.tables.port_facts(endpoint_id)?;
        Some(Limits {
            mtu_bytes,
            gateway_ipv4: network.gateway_ipv4,
            gateway_ipv6: network.gateway_ipv6,
        })
    }

    fn hold(
        &mut self,
        question: Question,
        frame: SlowFrame,
        now: Duration,
        out: &mut Vec<SlowFrame>,
    ) {
        if let Err(frame) = self.waiting.hold(question, frame, now) {
            out.push(frame.into_dropped(DropReason::HoldFull));
        }
    }

    /// When [`Engine::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.waiting.poll_timeout()
    }

    /// Gives up what has waited too long.
    pub fn handle_timeout(&mut self, now: Duration, out: &mut Vec<SlowFrame>) {
        while let Some((question, frames)) = self.waiting.take_expired(now) {
            let reason = match question {
                Question::Flow { .. } => DropReason::Unresolved,
                Question::Neighbour { .. } => DropReason::NeighbourUnknown,
            };
            out.extend(frames.into_iter().map(|frame| frame.into_dropped(reason)));
        }
    }

    /// Whether [`Engine::poll_misses`] may have something.
    pub fn has_misses(&self) -> bool {
        self.waiting.has_unasked()
    }

    /// The next misses to ask the forwarder for, at most [`MISSES_PER_BATCH_MAX`]. A packet to a
    /// MAC that the tables do not have (they may not have come yet) is asked for when they do.
    pub fn poll_misses(&mut self) -> Vec<Miss> {
        let mut misses = Vec::new();
        while misses.len() < MISSES_PER_BATCH_MAX {
            let Some((question, frame)) = self.waiting.next_unasked() else { break };
            let Question::Flow { source_endpoint_id, target_mac } = question else { continue };
            let Some(target_endpoint_id) = self.tables.neighbour(source_endpoint_id, target_mac)
            else {
                self.waiting.postpone(question);
                continue;
            };
            let packet = frame.packet();
            let (source_port, target_port) = packet.ports().unwrap_or_default();
            let (ethertype, ip_protocol) = (packet.ethertype, packet.ip_protocol().unwrap_or(0));
            misses.push(Miss {
                source_endpoint_id,
                target_endpoint_id,
                ethertype,
                ip_protocol,
                source_port,
                target_port,
            });
        }
        misses
    }

    /// The forwarder that was asked is gone, or another one is there: everything is asked again.
    pub fn handle_new_forwarder(&mut self) {
        self.waiting.ask_all_again();
    }

    /// The forwarder has no answer to these.
    pub fn handle_unresolved(&mut self, keys: &[FlowKey], out: &mut Vec<SlowFrame>) {
        for key in keys {
            if let Some(question) = self.question(*key) {
                let frames = self.waiting.take(question).into_iter();
                out.extend(frames.map(|frame| frame.into_dropped(DropReason::Unresolved)));
            }
        }
    }

    /// Takes a plan over that the kernel has followed: packets that may go on now are appended to
    /// `out`. The caller deletes the flows that it voids before it tells anybody that the plan is
    /// in force.
    pub fn commit(&mut self, plan: Plan, out: &mut Vec<SlowFrame>) -> Applied {
        let committed = self.tables.commit(plan);
        let mut void_flows: Vec<FlowKey> =
            committed.endpoint_ids.iter().flat_map(|id| self.flows.of_endpoint(*id)).collect();
        if !committed.host_ids.is_empty() {
            let goes_there = |flow: &&Flow| {
                let row = self.tables.row(flow.target_endpoint_id);
                row.is_some_and(|row| committed.host_ids.contains(&row.endpoint.host_id))
            };
            void_flows.extend(self.flows.iter().filter(goes_there).map(Flow::key));
        }
        void_flows.sort_unstable();
        void_flows.dedup();
        for key in &void_flows {
            self.flows.delete(*key);
        }
        self.release_after_change(out);
        Applied { void_flows }
    }

    /// Requests for neighbours walk the new tables, flows to what has become known are asked for,
    /// and packets of ports that are gone go.
    fn release_after_change(&mut self, out: &mut Vec<SlowFrame>) {
        let is_ready = |question| match question {
            Question::Flow { .. } => false,
            Question::Neighbour { source_endpoint_id, address } => {
                self.tables.has_address(source_endpoint_id, address)
            }
        };
        let is_portless =
            |question: Question| self.tables.port(question.source_endpoint_id()).is_none();
        for question in self.waiting.select(|question| is_portless(question) || is_ready(question))
        {
            let is_ready = !is_portless(question);
            let frames = self.waiting.take(question).into_iter();
            out.extend(frames.map(|frame| {
                if is_ready {
                    frame.into_resent()
                } else {
                    frame.into_dropped(DropReason::PortGone)
                }
            }));
        }
        self.waiting.ask_postponed();
    }

    /// Checks flows that are to come into force; gives those that may, and asks for the others
    /// again.
    pub fn check_flows(&mut self, flows: Vec<Flow>) -> Vec<Flow> {
        let mut good = flows;
        good.retain(|flow| match self.tables.check_flow(flow) {
            Ok(()) => true,
            Err(FlowRefusal::Stale | FlowRefusal::Contradicts) => {
                if let Some(question) = self.question(flow.key()) {
                    self.waiting.ask_again(question);
                }
                false
            }
            Err(FlowRefusal::Unknown) => false,
        });
        good
    }

    /// Takes flows over that the kernel has: the packets that waited for them are appended to
    /// `out`.
    pub fn put_flows(&mut self, flows: &[Flow], out: &mut Vec<SlowFrame>) {
        for flow in flows {
            self.flows.put(*flow);
            if let Some(question) = self.question(flow.key()) {
                out.extend(self.waiting.take(question).into_iter().map(SlowFrame::into_resent));
            }
        }
    }

    /// Forgets flows that the kernel no longer has; says how many there were.
    pub fn delete_flows(&mut self, keys: &[FlowKey]) -> usize {
        keys.iter().filter(|key| self.flows.delete(**key)).count()
    }

    fn question(&self, (source_endpoint_id, target_endpoint_id): FlowKey) -> Option<Question> {
        let target_mac = self.tables.row(target_endpoint_id)?.endpoint.mac;
        Some(Question::Flow { source_endpoint_id, target_mac })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::flows::FlowTarget;
    use crate::packet::{ETHERTYPE_IPV4, PROTOCOL_UDP};
    use crate::sample;
    use crate::tables::{Change, Endpoint, Network, Peer, PeerKind, Port};

    const NOW: Duration = Duration::from_secs(50);
    const HERE: u32 = 1;
    const THERE: u32 = 2;

    fn network() -> Network {
        let gateway_ipv4 = Some(Ipv4Addr::new(10, 20, 0, 1));
        Network { network_id: 1, vni: 101, mtu_bytes: 1320, gateway_ipv4, gateway_ipv6: None }
    }

    fn web() -> Endpoint {
        Endpoint {
            endpoint_id: 11,
            network_id: 1,
            mac: sample::WEB_MAC,
            addresses: vec![sample::WEB_IPV4.into()],
            allowed_prefixes: Vec::new(),
            host_id: HERE,
        }
    }

    fn api() -> Endpoint {
        let addresses = vec![sample::API_IPV4.into(), sample::API_IPV6.into()];
        Endpoint { endpoint_id: 13, mac: sample::API_MAC, addresses, host_id: THERE, ..web() }
    }

    fn peer() -> Peer {
        Peer {
            host_id: THERE,
            kind: PeerKind::Vxlan {
                local_address: Ipv4Addr::new(192, 0, 2, 1).into(),
                remote_address: Ipv4Addr::new(192, 0, 2, 2).into(),
                is_foreign: false,
            },
            network_ids: [1].into(),
        }
    }

    /// `web` is attached; the tables have it and the other host, but not `api` yet.
    fn engine() -> Engine {
        let mut engine = Engine::default();
        let port = Port { endpoint: web(), network: network(), ifindex: 7, is_peer: true };
        commit(&mut engine, |tables| tables.plan_port(11, Some(port)).unwrap());
        let changes = vec![
            Change::PutNetwork(network()),
            Change::PutPeer(peer()),
            Change::PutEndpoint(web()),
        ];
        commit(&mut engine, |tables| tables.plan(0, 1, HERE, changes).unwrap());
        engine
    }

    fn commit(
        engine: &mut Engine,
        plan: impl FnOnce(&Tables) -> Plan,
    ) -> (Applied, Vec<SlowFrame>) {
        let mut out = Vec::new();
        let plan = plan(engine.tables());
        let applied = engine.commit(plan, &mut out);
        (applied, out)
    }

    fn apply(engine: &mut Engine, changes: Vec<Change>) -> (Applied, Vec<SlowFrame>) {
        let base = engine.tables().revision();
        commit(engine, |tables| tables.plan(base, base + 1, HERE, changes).unwrap())
    }

    fn handle(engine: &mut Engine, purpose: u8, ethernet: &[u8]) -> Vec<SlowFrame> {
        let mut out = Vec::new();
        engine.handle_frame(sample::slow_frame(purpose, ethernet), NOW, &mut out);
        out
    }

    fn answer(engine: &mut Engine, table_revision: u64) -> (usize, Vec<SlowFrame>) {
        let flow = Flow {
            source_endpoint_id: 11,
            target_endpoint_id: 13,
            target: FlowTarget::Host(THERE),
            table_revision,
        };
        let good = engine.check_flows(vec![flow]);
        let mut out = Vec::new();
        engine.put_flows(&good, &mut out);
        (good.len(), out)
    }

    #[test]
    fn first_packets_wait_for_one_answer_and_go_on_in_order() {
        let mut engine = engine();
        apply(&mut engine, vec![Change::PutEndpoint(api())]);
        for _ in 0..3 {
            assert!(handle(&mut engine, weft_abi::SLOW_MISS, &sample::udp4()).is_empty());
        }
        let misses = engine.poll_misses();
        let expected = Miss {
            source_endpoint_id: 11,
            target_endpoint_id: 13,
            ethertype: ETHERTYPE_IPV4,
            ip_protocol: PROTOCOL_UDP,
            source_port: 40_000,
            target_port: 53,
        };
        assert_eq!(misses, [expected]);
        assert!(engine.poll_misses().is_empty());
        let (written, out) = answer(&mut engine, 2);
        assert_eq!((written, out.len()), (1, 3));
        assert!(out.iter().all(|frame| frame.meta().purpose == weft_abi::SLOW_RESEND));
        assert_eq!(engine.waiting_bytes(), 0);
        assert_eq!(
            handle(&mut engine, weft_abi::SLOW_MISS, &sample::udp4()).len(),
            1,
            "the answer overtook this one"
        );
    }

    #[test]
    fn an_answer_on_old_tables_is_asked_for_again() {
        let mut engine = engine();
        apply(&mut engine, vec![Change::PutEndpoint(api())]);
        handle(&mut engine, weft_abi::SLOW_MISS, &sample::udp4());
        engine.poll_misses();
        assert_eq!(answer(&mut engine, 1), (0, Vec::new()));
        assert_eq!(engine.poll_misses().len(), 1);
        assert_eq!(answer(&mut engine, 2).1.len(), 1);
    }

    #[test]
    fn a_packet_to_an_unknown_mac_is_asked_for_when_the_tables_have_it() {
        let mut engine = engine();
        handle(&mut engine, weft_abi::SLOW_MISS, &sample::udp4());
        assert!(engine.poll_misses().is_empty());
        apply(&mut engine, vec![Change::PutEndpoint(api())]);
        assert_eq!(engine.poll_misses().len(), 1);
    }

    #[test]
    fn a_request_for_a_neighbour_walks_the_tables_again_when_they_have_it() {
        let mut engine = engine();
        assert!(handle(&mut engine, weft_abi::SLOW_NEIGHBOUR, &sample::arp_request()).is_empty());
        assert!(
            handle(&mut engine, weft_abi::SLOW_NEIGHBOUR, &sample::neighbour_solicitation())
                .is_empty()
        );
        assert!(engine.poll_misses().is_empty());
        let (_, out) = apply(&mut engine, vec![Change::PutEndpoint(api())]);
        assert_eq!(
            out.iter().map(|frame| frame.meta().purpose).collect::<Vec<_>>(),
            [weft_abi::SLOW_RESEND; 2]
        );
    }

    #[test]
    fn what_waits_too_long_is_dropped_by_name() {
        let mut engine = engine();
        handle(&mut engine, weft_abi::SLOW_MISS, &sample::udp4());
        handle(&mut engine, weft_abi::SLOW_NEIGHBOUR, &sample::arp_request());
        let mut out = Vec::new();
        while let Some(timeout) = engine.poll_timeout() {
            engine.handle_timeout(timeout, &mut out);
        }
        let reasons: Vec<u8> = out.iter().map(|frame| frame.meta().reason).collect();
        assert_eq!(reasons, [DropReason::NeighbourUnknown as u8, DropReason::Unresolved as u8]);
        assert!(out.iter().all(|frame| frame.meta().purpose == weft_abi::SLOW_DROP));
    }

    #[test]
    fn what_the_forwarder_cannot_answer_is_dropped_at_once() {
        let mut engine = engine();
        apply(&mut engine, vec![Change::PutEndpoint(api())]);
        handle(&mut engine, weft_abi::SLOW_MISS, &sample::udp4());
        let mut out = Vec::new();
        engine.handle_unresolved(&[(11, 13)], &mut out);
        assert_eq!(out[0].meta().reason, DropReason::Unresolved as u8);
    }

    #[test]
    fn a_packet_over_the_mtu_is_answered_and_accounted_for() {
        let mut engine = engine();
        let large = sample::ethernet(
            sample::API_MAC,
            ETHERTYPE_IPV4,
            &sample::ipv4(PROTOCOL_UDP, &sample::udp(1400)),
        );
        let out = handle(&mut engine, weft_abi::SLOW_MTU, &large);
        let purposes: Vec<u8> = out.iter().map(|frame| frame.meta().purpose).collect();
        assert_eq!(purposes, [weft_abi::SLOW_TO_SOURCE, weft_abi::SLOW_DROP]);
        assert_eq!(out[0].packet().target_mac, sample::WEB_MAC);
        assert_eq!(out[1].meta().reason, DropReason::MtuExceeded as u8);
    }

    #[test]
    fn a_change_voids_the_flows_that_depend_on_it_and_no_other() {
        let mut engine = engine();
        apply(&mut engine, vec![Change::PutEndpoint(api())]);
        assert_eq!(answer(&mut engine, 2).0, 1);
        let db = Endpoint {
            endpoint_id: 14,
            mac: crate::packet::Mac([2, 0, 0, 0, 0, 14]),
            addresses: Vec::new(),
            ..api()
        };
        assert!(apply(&mut engine, vec![Change::PutEndpoint(db)]).0.void_flows.is_empty());
        let moved = Endpoint { host_id: 3, ..api() };
        assert_eq!(apply(&mut engine, vec![Change::PutEndpoint(moved)]).0.void_flows, [(11, 13)]);
        assert!(engine.flows().is_empty());
    }

    #[test]
    fn a_host_that_loses_its_carrier_voids_the_flows_to_it() {
        let mut engine = engine();
        apply(&mut engine, vec![Change::PutEndpoint(api())]);
        answer(&mut engine, 2);
        assert_eq!(
            apply(&mut engine, vec![Change::DeletePeer(THERE, None)]).0.void_flows,
            [(11, 13)]
        );
    }

    #[test]
    fn a_network_that_is_to_be_sealed_voids_the_flows_in_the_clear_and_asks_anew() {
        let mut engine = engine();
        apply(&mut engine, vec![Change::PutEndpoint(api())]);
        answer(&mut engine, 2);
        let changes = vec![
            Change::PutPeer(Peer { network_ids: [].into(), ..peer() }),
            Change::PutPeer(Peer { kind: PeerKind::Sealed, ..peer() }),
        ];
        assert_eq!(apply(&mut engine, changes).0.void_flows, [(11, 13)]);
        handle(&mut engine, weft_abi::SLOW_MISS, &sample::udp4());
        assert_eq!(engine.poll_misses().len(), 1);
        assert_eq!(answer(&mut engine, 3), (0, Vec::new()), "in the clear again");
        let sealed = Flow {
            source_endpoint_id: 11,
            target_endpoint_id: 13,
            target: FlowTarget::Sealed(THERE),
            table_revision: 3,
        };
        assert_eq!(engine.check_flows(vec![sealed]), [sealed]);
    }

    #[test]
    fn packets_of_a_port_that_goes_are_accounted_for() {
        let mut engine = engine();
        handle(&mut engine, weft_abi::SLOW_MISS, &sample::udp4());
        let (_, out) = commit(&mut engine, |tables| tables.plan_port(11, None).unwrap());
        assert_eq!(out[0].meta().reason, DropReason::PortGone as u8);
    }

    #[test]
    fn a_new_forwarder_is_asked_for_what_the_old_one_left() {
        let mut engine = engine();
        apply(&mut engine, vec![Change::PutEndpoint(api())]);
        handle(&mut engine, weft_abi::SLOW_MISS, &sample::udp4());
        assert_eq!(engine.poll_misses().len(), 1);
        engine.handle_new_forwarder();
        assert_eq!(engine.poll_misses().len(), 1);
    }
}
