//! The flows in force, found by source and by target.

use std::collections::{BTreeSet, HashMap};

use weft_abi::DropReason;

/// Where the packets of a flow go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowTarget {
    /// The target's port on this host.
    Port,
    /// Another host, by VXLAN.
    Host(u32),
    /// Another host, sealed.
    Sealed(u32),
    /// Nowhere.
    Drop(DropReason),
}

/// All packets from a source to a target endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Has a port here.
    pub source_endpoint_id: u32,
    /// Of the same network.
    pub target_endpoint_id: u32,
    /// Where they go.
    pub target: FlowTarget,
    /// Revision of the tables on which it was decided.
    pub table_revision: u64,
}

/// Source and target endpoint.
pub type FlowKey = (u32, u32);

impl Flow {
    /// Its name.
    pub const fn key(&self) -> FlowKey {
        (self.source_endpoint_id, self.target_endpoint_id)
    }
}

/// The flows in force. A flow costs about 100 bytes: 13 MiB for 131,072 of them.
#[derive(Debug, Default)]
pub struct Flows {
    by_key: HashMap<FlowKey, Flow>,
    targets: HashMap<u32, BTreeSet<u32>>,
    sources: HashMap<u32, BTreeSet<u32>>,
}

impl Flows {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.by_key.values()
    }

    /// The flow of this name.
    pub fn get(&self, key: FlowKey) -> Option<&Flow> {
        self.by_key.get(&key)
    }

    /// Adds or replaces a flow.
    pub fn put(&mut self, flow: Flow) {
        let (source, target) = flow.key();
        self.by_key.insert(flow.key(), flow);
        self.targets.entry(source).or_default().insert(target);
        self.sources.entry(target).or_default().insert(source);
    }

    /// Removes a flow; false when there was none.
    pub fn delete(&mut self, key: FlowKey) -> bool {
        let was_there = self.by_key.remove(&key).is_some();
        if was_there {
            let (source, target) = key;
            unlink(&mut self.targets, source, target);
            unlink(&mut self.sources, target, source);
        }
        was_there
    }

    /// Names of the flows from and to an endpoint.
    pub fn of_endpoint(&self, endpoint_id: u32) -> Vec<FlowKey> {
        let from = self.targets.get(&endpoint_id).into_iter().flatten();
        let to = self.sources.get(&endpoint_id).into_iter().flatten();
        from.map(|target| (endpoint_id, *target))
            .chain(to.map(|source| (*source, endpoint_id)))
            .collect()
    }
}

fn unlink(index: &mut HashMap<u32, BTreeSet<u32>>, from: u32, to: u32) {
    if let Some(others) = index.get_mut(&from) {
        others.remove(&to);
        if others.is_empty() {
            index.remove(&from);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flow((source_endpoint_id, target_endpoint_id): FlowKey) -> Flow {
        Flow { source_endpoint_id, target_endpoint_id, target: FlowTarget::Port, table_revision: 1 }
    }

    proptest! {
        #[test]
        fn the_indexes_always_name_what_is_there(steps in proptest::collection::vec((any::<bool>(), 1..5u32, 1..5u32), 0..100)) {
            let mut flows = Flows::default();
            for (is_put, source, target) in steps {
                if is_put {
                    flows.put(flow((source, target)));
                } else {
                    let was_there = flows.get((source, target)).is_some();
                    prop_assert_eq!(flows.delete((source, target)), was_there);
                }
                for endpoint in 1..5 {
                    let mut named = flows.of_endpoint(endpoint);
                    named.sort_unstable();
                    named.dedup();
                    let mut there: Vec<_> = flows.iter().map(Flow::key)
                        .filter(|(source, target)| *source == endpoint || *target == endpoint)
                        .collect();
                    there.sort_unstable();
                    prop_assert_eq!(named, there);
                }
            }
            for (source, target) in flows.iter().map(Flow::key).collect::<Vec<_>>() {
                flows.delete((source, target));
            }
            prop_assert!(flows.is_empty() && flows.targets.is_empty() && flows.sources.is_empty());
        }
    }
}
