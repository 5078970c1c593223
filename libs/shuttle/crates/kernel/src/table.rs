//! A map of the kernel with the types of its rows.

use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use weft_abi::Plain;

use crate::sys;

/// Rows per call: keeps a call's time and buffers small.
const BATCH_ROWS: usize = 1_024;

/// A call on a map failed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// No row is free.
    #[error(
        "kernel map {map} is full; remove what is not used, or raise its limit and remove the pins so that it is made anew"
    )]
    Full {
        /// Name of the map.
        map: &'static str,
    },
    /// Anything else.
    #[error(
        "kernel map {map}: {call} failed: {source}; the shuttle needs CAP_BPF and CAP_NET_ADMIN"
    )]
    Call {
        /// Name of the map.
        map: &'static str,
        /// What was tried.
        call: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// A hash, array or trie of the kernel.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    name: &'static str,
    fd: OwnedFd,
    rows: PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    pub(crate) fn new(name: &'static str, fd: OwnedFd) -> Self {
        Self { name, fd, rows: PhantomData }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        let mut value = vec![0; size_of::<V>()];
        match sys::lookup(self.fd(), key.as_bytes(), &mut value) {
            Ok(()) => Ok(Some(V::from_bytes(&value))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.error("lookup", error)),
        }
    }

    /// The values of all CPUs, for a per-CPU map.
    pub(crate) fn get_per_cpu(&self, key: &K, cpus: usize) -> Result<Option<Vec<V>>, TableError> {
        let stride = size_of::<V>().next_multiple_of(8);
        let mut values = vec![0; stride * cpus];
        match sys::lookup(self.fd(), key.as_bytes(), &mut values) {
            Ok(()) => Ok(Some(
                values
                    .chunks(stride)
                    .map(|value| V::from_bytes(&value[..size_of::<V>()]))
                    .collect(),
            )),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.error("lookup", error)),
        }
    }

    pub(crate) fn put(&self, key: &K, value: &V) -> Result<(), TableError> {
        sys::update(self.fd(), key.as_bytes(), value.as_bytes())
            .map_err(|error| self.error("update", error))
    }

    /// Makes a row of zeros in a per-CPU map.
    pub(crate) fn put_zero_per_cpu(&self, key: &K, cpus: usize) -> Result<(), TableError> {
        let zeros = vec![0; size_of::<V>().next_multiple_of(8) * cpus];
        sys::update(self.fd(), key.as_bytes(), &zeros).map_err(|error| self.error("update", error))
    }

    /// Tells whether the row was there.
    pub(crate) fn remove(&self, key: &K) -> Result<bool, TableError> {
        match sys::delete(self.fd(), key.as_bytes()) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(self.error("delete", error)),
        }
    }

    pub(crate) fn put_all(&self, rows: &[(K, V)]) -> Result<(), TableError> {
        for chunk in rows.chunks(BATCH_ROWS) {
            let keys = join(chunk.iter().map(|(key, _)| key));
            let values = join(chunk.iter().map(|(_, value)| value));
            sys::update_batch(self.fd(), &keys, &values, row_count(chunk))
                .map_err(|(_, error)| self.error("batch update", error))?;
        }
        Ok(())
    }

    /// Removes rows, also where some are not there, and tells how many were.
    pub(crate) fn remove_all(&self, keys: &[K]) -> Result<usize, TableError> {
        let mut removed = 0;
        let mut rest = keys;
        while !rest.is_empty() {
            let chunk = &rest[..rest.len().min(BATCH_ROWS)];
            match sys::delete_batch(self.fd(), &join(chunk.iter()), row_count(chunk)) {
                Ok(()) => {
                    removed += chunk.len();
                    rest = &rest[chunk.len()..];
                }
                Err((done, error)) if is_absent(&error) => {
                    removed += done as usize;
                    rest = &rest[done as usize + 1..];
                }
                Err((_, error)) => return Err(self.error("batch delete", error)),
            }
        }
        Ok(removed)
    }

    /// All keys, one by one: works for every kind of map. Rows that come and go meanwhile may be missed.
    pub(crate) fn keys(&self) -> Result<Vec<K>, TableError> {
        let mut keys: Vec<K> = Vec::new();
        loop {
            let mut next = vec![0; size_of::<K>()];
            match sys::next_key(self.fd(), keys.last().map(Plain::as_bytes), &mut next) {
                Ok(()) => keys.push(K::from_bytes(&next)),
                Err(error) if is_absent(&error) => return Ok(keys),
                Err(error) => return Err(self.error("next key", error)),
            }
        }
    }

    /// All rows of a hash, in batches.
    pub(crate) fn rows(&self) -> Result<Vec<(K, V)>, TableError> {
        let mut rows = Vec::new();
        let mut cursor = None;
        let mut room = BATCH_ROWS;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        loop {
            keys.resize(room * size_of::<K>(), 0);
            values.resize(room * size_of::<V>(), 0);
            let limit = u32::try_from(room).expect("a few thousand");
            match sys::lookup_batch(self.fd(), &mut cursor, &mut keys, &mut values, limit) {
                Ok((count, is_last)) => {
                    rows.extend(
                        keys.chunks(size_of::<K>())
                            .zip(values.chunks(size_of::<V>()))
                            .take(count as usize)
                            .map(|(key, value)| (K::from_bytes(key), V::from_bytes(value))),
                    );
                    if is_last {
                        return Ok(rows);
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => room *= 2,
                Err(error) => return Err(self.error("batch lookup", error)),
            }
        }
    }

    fn error(&self, call: &'static str, source: io::Error) -> TableError {
        match source.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC) => TableError::Full { map: self.name },
            _ => TableError::Call { map: self.name, call, source },
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

fn join<'a, T: Plain>(items: impl Iterator<Item = &'a T>) -> Vec<u8> {
    items.flat_map(|item| item.as_bytes().iter().copied()).collect()
}

fn row_count<T>(rows: &[T]) -> u32 {
    u32::try_from(rows.len()).expect("at most BATCH_ROWS")
}
