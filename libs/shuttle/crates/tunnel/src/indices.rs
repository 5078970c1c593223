//! The numbers by which peers name what they talk about: random, so that strangers cannot guess
//! them.

use std::collections::HashMap;

use crate::output::PeerId;
use crate::random::{self, Random};

#[derive(Debug, Default)]
pub(crate) struct Indices(HashMap<u32, PeerId>);

impl Indices {
    pub(crate) fn allocate(&mut self, peer: PeerId, random: &mut dyn Random) -> u32 {
        // The limits on peers and on what each has keep the table far from full.
        loop {
            let index = random::number(random);
            if self.claim(index, peer) {
                return index;
            }
        }
    }

    /// Takes a given index; `false` where another has it.
    pub(crate) fn claim(&mut self, index: u32, peer: PeerId) -> bool {
        let is_free = !self.0.contains_key(&index);
        if is_free {
            self.0.insert(index, peer);
        }
        is_free
    }

    pub(crate) fn release(&mut self, index: u32) {
        self.0.remove(&index);
    }

    pub(crate) fn peer(&self, index: u32) -> Option<PeerId> {
        self.0.get(&index).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
