//! Packets that wait for an answer: first packets for their flow, requests for a neighbour that may
//! appear with the next tables.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::packet::Mac;
use crate::slow::SlowFrame;

/// Packets that wait for one answer. A burst beyond it is the sender's to repeat.
pub(crate) const PACKETS_PER_QUESTION_MAX: usize = 64;
/// Questions of one port. How many packets wait for them is for the bytes below to say.
pub(crate) const QUESTIONS_PER_PORT_MAX: usize = 128;
/// Bytes of one port: sixteen super-packets of 64 KiB.
pub(crate) const BYTES_PER_PORT_MAX: usize = 1 << 20;
/// Bytes of all ports, so that four ports at their limit cannot keep a fifth from being served by
/// less than its own share of memory.
pub(crate) const BYTES_MAX: usize = 4 << 20;
/// Questions of all ports: about 200 bytes each beside the packets, 0.8 MiB in all.
pub(crate) const QUESTIONS_MAX: usize = 4096;
/// The answer may need two services that were just restarted; TCP repeats a SYN after 1 s and again
/// after 2 s.
pub(crate) const FLOW_DEADLINE: Duration = Duration::from_secs(3);
/// Linux repeats a neighbour request after 1 s, which then takes this one's place.
pub(crate) const NEIGHBOUR_DEADLINE: Duration = Duration::from_secs(1);

/// What a packet waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    /// What to do with packets from an endpoint to a MAC of its network.
    Flow { source_endpoint_id: u32, target_mac: Mac },
    /// Which MAC has the address in the network of an endpoint.
    Neighbour { source_endpoint_id: u32, address: IpAddr },
}

impl Question {
    /// The endpoint whose packets wait.
    pub(crate) const fn source_endpoint_id(self) -> u32 {
        match self {
            Self::Flow { source_endpoint_id, .. } | Self::Neighbour { source_endpoint_id, .. } => {
                source_endpoint_id
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// Its turn comes.
    Queued,
    /// Somebody works on it.
    Asked,
    /// It cannot be put into words yet.
    Postponed,
}

#[derive(Debug)]
struct Entry {
    frames: Vec<SlowFrame>,
    serial: u64,
    asking: Asking,
}

#[derive(Debug, Default)]
struct Share {
    questions: usize,
    bytes: usize,
}

/// The packets by question, in the order of their deadlines.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    entries: HashMap<Question, Entry>,
    shares: HashMap<u32, Share>,
    bytes: usize,
    /// Deadline, question and serial; all deadlines of a queue lie equally far ahead, so each is in
    /// order. What was answered stays until its turn comes or it outnumbers the living; the serial
    /// tells it from a later question of the same name.
    flow_deadlines: VecDeque<(Duration, Question, u64)>,
    neighbour_deadlines: VecDeque<(Duration, Question, u64)>,
    unasked: VecDeque<(Question, u64)>,
    serial: u64,
}

impl Waiting {
    /// Keeps a packet until its question is answered or its time is over. The first of a question
    /// decides when that is.
    ///
    /// # Errors
    /// Gives the packet back when there is no room for it.
    pub(crate) fn hold(
        &mut self,
        question: Question,
        frame: SlowFrame,
        now: Duration,
    ) -> Result<(), SlowFrame> {
        let length = frame.as_bytes().len();
        let share = self.shares.get(&question.source_endpoint_id());
        let (questions, bytes) = share.map_or((0, 0), |share| (share.questions, share.bytes));
        let is_full = self.bytes + length > BYTES_MAX || bytes + length > BYTES_PER_PORT_MAX;
        let has_room = questions < QUESTIONS_PER_PORT_MAX && self.entries.len() < QUESTIONS_MAX;
        match self.entries.get_mut(&question) {
            Some(entry) if is_full || entry.frames.len() >= PACKETS_PER_QUESTION_MAX => {
                return Err(frame);
            }
            Some(entry) => entry.frames.push(frame),
            None if is_full || !has_room => return Err(frame),
            None => self.open(question, frame, now),
        }
        self.bytes += length;
        self.shares.entry(question.source_endpoint_id()).or_default().bytes += length;
        Ok(())
    }

    fn open(&mut self, question: Question, frame: SlowFrame, now: Duration) {
        self.serial += 1;
        let (queue, deadline) = match question {
            Question::Flow { .. } => (&mut self.flow_deadlines, now + FLOW_DEADLINE),
            Question::Neighbour { .. } => (&mut self.neighbour_deadlines, now + NEIGHBOUR_DEADLINE),
        };
        queue.push_back((deadline, question, self.serial));
        if matches!(question, Question::Flow { .. }) {
            self.unasked.push_back((question, self.serial));
        }
        self.entries.insert(
            question,
            Entry { frames: vec![frame], serial: self.serial, asking: Asking::Queued },
        );
        self.shares.entry(question.source_endpoint_id()).or_default().questions += 1;
        self.forget_answered();
    }

    /// The packets of a question, which is over with that.
    pub(crate) fn take(&mut self, question: Question) -> Vec<SlowFrame> {
        let Some(entry) = self.entries.remove(&question) else { return Vec::new() };
        let length: usize = entry.frames.iter().map(|frame| frame.as_bytes().len()).sum();
        self.bytes -= length;
        if let Some(share) = self.shares.get_mut(&question.source_endpoint_id()) {
            share.questions -= 1;
            share.bytes -= length;
            if share.questions == 0 {
                self.shares.remove(&question.source_endpoint_id());
            }
        }
        entry.frames
    }

    /// The next question whose time is over, with its packets.
    pub(crate) fn take_expired(&mut self, now: Duration) -> Option<(Question, Vec<SlowFrame>)> {
        loop {
            let queue = [&mut self.flow_deadlines, &mut self.neighbour_deadlines]
                .into_iter()
                .find(|queue| queue.front().is_some_and(|(deadline, ..)| *deadline <= now))?;
            let (_, question, serial) = queue.pop_front()?;
            if self.is_current(question, serial) {
                return Some((question, self.take(question)));
            }
        }
    }

    /// When [`Waiting::take_expired`] wants to be called next.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let fronts = [self.flow_deadlines.front(), self.neighbour_deadlines.front()];
        fronts.into_iter().flatten().map(|(deadline, ..)| *deadline).min()
    }

    /// The next flow that nobody was asked for yet.
    pub(crate) fn next_unasked(&mut self) -> Option<(Question, &SlowFrame)> {
        loop {
            let (question, serial) = self.unasked.pop_front()?;
            if self.is_current(question, serial) {
                let entry = self.entries.get_mut(&question)?;
                entry.asking = Asking::Asked;
                return Some((question, &entry.frames[0]));
            }
        }
    }

    /// Whether [`Waiting::next_unasked`] may have something.
    pub(crate) fn has_unasked(&self) -> bool {
        !self.unasked.is_empty()
    }

    /// Lets a flow that is or was asked for be asked for once more.
    pub(crate) fn ask_again(&mut self, question: Question) {
        if let Some(entry) =
            self.entries.get_mut(&question).filter(|entry| entry.asking != Asking::Queued)
        {
            entry.asking = Asking::Queued;
            self.unasked.push_back((question, entry.serial));
        }
    }

    /// Keeps a flow from being asked for until [`Waiting::ask_postponed`].
    pub(crate) fn postpone(&mut self, question: Question) {
        if let Some(entry) = self.entries.get_mut(&question) {
            entry.asking = Asking::Postponed;
        }
    }

    /// Lets all flows that were postponed be asked for.
    pub(crate) fn ask_postponed(&mut self) {
        self.ask_all_that(|asking| asking == Asking::Postponed);
    }

    /// Lets all flows be asked for once more, the oldest first: who was asked is gone.
    pub(crate) fn ask_all_again(&mut self) {
        self.ask_all_that(|asking| asking == Asking::Asked);
    }

    fn ask_all_that(&mut self, wanted: impl Fn(Asking) -> bool) {
        for (_, question, serial) in &self.flow_deadlines {
            let entry = self.entries.get_mut(question).filter(|entry| entry.serial == *serial);
            if let Some(entry) = entry.filter(|entry| wanted(entry.asking)) {
                entry.asking = Asking::Queued;
                self.unasked.push_back((*question, *serial));
            }
        }
    }

    /// The questions that `wanted` picks.
    pub(crate) fn select(&self, wanted: impl Fn(Question) -> bool) -> Vec<Question> {
        self.entries.keys().copied().filter(|question| wanted(*question)).collect()
    }

    /// Bytes that wait.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_current(&self, question: Question, serial: u64) -> bool {
        self.entries.get(&question).is_some_and(|entry| entry.serial == serial)
    }

    /// Keeps the queues in proportion to what they are about.
    fn forget_answered(&mut self) {
        let length_max = 2 * self.entries.len() + 64;
        let is_current = |question: &Question, serial: u64| {
            self.entries.get(question).is_some_and(|entry| entry.serial == serial)
        };
        for queue in [&mut self.flow_deadlines, &mut self.neighbour_deadlines] {
            if queue.len() > length_max {
                queue.retain(|(_, question, serial)| is_current(question, *serial));
            }
        }
        if self.unasked.len() > length_max {
            self.unasked.retain(|(question, serial)| is_current(question, *serial));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sample;

    const START: Duration = Duration::from_secs(100);

    fn flow(source_endpoint_id: u32, last: u8) -> Question {
        Question::Flow { source_endpoint_id, target_mac: Mac([2, 0, 0, 0, 0, last]) }
    }

    fn frame() -> SlowFrame {
        sample::slow_frame(weft_abi::SLOW_MISS, &sample::udp4())
    }

    fn large_frame() -> SlowFrame {
        let datagram = sample::ipv4(17, &sample::udp(60_000));
        sample::slow_frame(
            weft_abi::SLOW_MISS,
            &sample::ethernet(sample::API_MAC, 0x0800, &datagram),
        )
    }

    #[test]
    fn packets_come_back_in_their_order() {
        let mut waiting = Waiting::default();
        let second = large_frame();
        waiting.hold(flow(1, 1), frame(), START).unwrap();
        waiting.hold(flow(1, 1), second.clone(), START).unwrap();
        assert_eq!(waiting.take(flow(1, 1)), [frame(), second]);
        assert_eq!(waiting.bytes(), 0);
        assert!(waiting.take(flow(1, 1)).is_empty());
    }

    #[test]
    fn a_flow_is_asked_for_once() {
        let mut waiting = Waiting::default();
        waiting.hold(flow(1, 1), frame(), START).unwrap();
        waiting.hold(flow(1, 1), frame(), START).unwrap();
        assert_eq!(waiting.next_unasked().unwrap().0, flow(1, 1));
        assert!(waiting.next_unasked().is_none());
        waiting.ask_again(flow(1, 1));
        assert_eq!(waiting.next_unasked().unwrap().0, flow(1, 1));
        assert!(waiting.next_unasked().is_none());
    }

    #[test]
    fn a_postponed_flow_is_asked_for_when_it_can_be() {
        let mut waiting = Waiting::default();
        waiting.hold(flow(1, 1), frame(), START).unwrap();
        let (question, _) = waiting.next_unasked().unwrap();
        waiting.postpone(question);
        waiting.ask_all_again();
        assert!(waiting.next_unasked().is_none());
        waiting.ask_postponed();
        assert_eq!(waiting.next_unasked().unwrap().0, question);
    }

    #[test]
    fn everything_is_asked_again_when_who_was_asked_is_gone() {
        let mut waiting = Waiting::default();
        for last in 1..=3 {
            waiting.hold(flow(1, last), frame(), START).unwrap();
        }
        while waiting.next_unasked().is_some() {}
        waiting.take(flow(1, 2));
        waiting.ask_all_again();
        assert_eq!(waiting.next_unasked().unwrap().0, flow(1, 1));
        assert_eq!(waiting.next_unasked().unwrap().0, flow(1, 3));
        assert!(waiting.next_unasked().is_none());
    }

    #[test]
    fn what_is_not_answered_expires_by_its_own_deadline() {
        let mut waiting = Waiting::default();
        let neighbour =
            Question::Neighbour { source_endpoint_id: 1, address: sample::API_IPV4.into() };
        waiting.hold(flow(1, 1), frame(), START).unwrap();
        waiting.hold(neighbour, frame(), START).unwrap();
        assert_eq!(waiting.poll_timeout(), Some(START + NEIGHBOUR_DEADLINE));
        assert!(waiting.take_expired(START).is_none());
        assert_eq!(waiting.take_expired(START + NEIGHBOUR_DEADLINE).unwrap().0, neighbour);
        assert_eq!(waiting.poll_timeout(), Some(START + FLOW_DEADLINE));
        assert_eq!(
            waiting.take_expired(START + FLOW_DEADLINE).unwrap(),
            (flow(1, 1), vec![frame()])
        );
        assert_eq!(waiting.poll_timeout(), None);
    }

    #[test]
    fn an_answered_question_does_not_expire_a_later_one_of_the_same_name() {
        let mut waiting = Waiting::default();
        waiting.hold(flow(1, 1), frame(), START).unwrap();
        waiting.take(flow(1, 1));
        waiting.hold(flow(1, 1), frame(), START + Duration::from_secs(2)).unwrap();
        assert!(waiting.take_expired(START + FLOW_DEADLINE).is_none());
        assert!(waiting.take_expired(START + Duration::from_secs(2) + FLOW_DEADLINE).is_some());
    }

    #[test]
    fn a_port_takes_no_more_than_its_share() {
        let mut waiting = Waiting::default();
        for _ in 0..PACKETS_PER_QUESTION_MAX {
            waiting.hold(flow(1, 0), frame(), START).unwrap();
        }
        assert!(waiting.hold(flow(1, 0), frame(), START).is_err());
        let held =
            (1..=255).filter(|last| waiting.hold(flow(1, *last), frame(), START).is_ok()).count();
        assert_eq!(held, QUESTIONS_PER_PORT_MAX - 1);
        assert!(waiting.hold(flow(2, 0), frame(), START).is_ok());
    }

    #[test]
    fn large_packets_are_bounded_by_bytes() {
        let mut waiting = Waiting::default();
        let held = (0..100)
            .filter(|last| waiting.hold(flow(1, *last), large_frame(), START).is_ok())
            .count();
        assert_eq!(held, BYTES_PER_PORT_MAX / large_frame().as_bytes().len());
        for port in 2..20 {
            for last in 0..100 {
                let _ = waiting.hold(flow(port, last), large_frame(), START);
            }
        }
        assert!(waiting.bytes() <= BYTES_MAX);
        assert!(waiting.bytes() > BYTES_MAX - large_frame().as_bytes().len());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Hold(u32, u8),
        Take(u32, u8),
        Ask,
        AskAllAgain,
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..3u32, 0..6u8).prop_map(|(port, last)| Step::Hold(port, last)),
            2 => (0..3u32, 0..6u8).prop_map(|(port, last)| Step::Take(port, last)),
            2 => Just(Step::Ask),
            1 => Just(Step::AskAllAgain),
            1 => (0..2000u64).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..300)
    }

    proptest! {
        #[test]
        fn every_packet_leaves_exactly_once_and_nothing_waits_too_long(steps in steps()) {
            let mut waiting = Waiting::default();
            let mut now = START;
            let mut inside = 0;
            for step in steps {
                match step {
                    Step::Hold(port, last) => inside += usize::from(waiting.hold(flow(port, last), frame(), now).is_ok()),
                    Step::Take(port, last) => inside -= waiting.take(flow(port, last)).len(),
                    Step::Ask => { waiting.next_unasked(); }
                    Step::AskAllAgain => waiting.ask_all_again(),
                    Step::Wait(ms) => {
                        now += Duration::from_millis(ms);
                        while let Some((_, frames)) = waiting.take_expired(now) {
                            inside -= frames.len();
                        }
                        prop_assert!(waiting.poll_timeout().is_none_or(|timeout| timeout > now));
                    }
                }
                prop_assert_eq!(waiting.bytes(), inside * frame().as_bytes().len());
                prop_assert!(waiting.flow_deadlines.len() <= 2 * waiting.entries.len() + 65);
            }
            while let Some((_, frames)) = waiting.take_expired(now + FLOW_DEADLINE) {
                inside -= frames.len();
            }
            prop_assert_eq!(inside, 0);
            prop_assert!(waiting.shares.is_empty());
        }
    }
}
