//! Memory that outlives the process and has no name: files of `memfd_create(2)`, which lie on no disk.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use blake2::{Blake2s256, Digest as _};
use zeroize::Zeroizing;

/// Page that counts attempts.
const HEAD_BYTES: u64 = 4096;
/// Room for one state: 2^16 peers of some 1 KiB. What is not written takes no memory.
const SLOT_BYTES: u64 = 64 << 20;
const FILE_BYTES: u64 = HEAD_BYTES + 2 * SLOT_BYTES;
const CHECKSUM_BYTES: usize = 32;
/// Number, length and checksum.
const SLOT_HEAD_BYTES: usize = 8 + 8 + CHECKSUM_BYTES;
/// Longest hand-over: sessions of 2^16 peers.
const SESSIONS_BYTES_MAX: u64 = 256 << 20;
/// A state from which so many processes went on and died at their start is not tried again.
const ATTEMPTS_MAX: u8 = 5;

/// A state that is replaced whole: it has two slots in turn, so that there is one whenever a process
/// dies.
pub(super) struct Memory {
    file: File,
    number: u64,
}

impl Memory {
    pub(super) fn create() -> io::Result<Self> {
        let file = memfd(c"weft-sealing")?;
        file.set_len(FILE_BYTES)?;
        seal(&file, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL)?;
        Ok(Self { file, number: 0 })
    }

    /// Goes on with that of the process before, and gives the state that was written last.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<(Self, Zeroizing<Vec<u8>>)> {
        let file = File::from(fd);
        if file.metadata()?.len() != FILE_BYTES {
            return Err(io::Error::other("the memory has another length"));
        }
        let mut memory = Self { file, number: 0 };
        let slots = [0, 1].map(|slot| memory.read(slot));
        let newest = slots.into_iter().flatten().max_by_key(|(number, _)| *number);
        let (number, bytes) = newest.ok_or_else(|| io::Error::other("the memory is damaged"))?;
        memory.number = number;
        memory.note_attempt()?;
        Ok((memory, bytes))
    }

    fn note_attempt(&self) -> io::Result<()> {
        let mut attempts = [0];
        self.file.read_exact_at(&mut attempts, 0)?;
        let [attempts] = attempts;
        if attempts >= ATTEMPTS_MAX {
            return Err(io::Error::other("the last processes that went on from it died at once"));
        }
        self.file.write_all_at(&[attempts + 1], 0)
    }

    /// The process has come through its start.
    pub(super) fn note_success(&self) -> io::Result<()> {
        self.file.write_all_at(&[0], 0)
    }

    /// Forgets every state: none is better than one that is out of date.
    pub(super) fn clear(&self) -> io::Result<()> {
        [0, 1].into_iter().try_for_each(|slot| self.file.write_all_at(&[0; 8], Self::at(slot)))
    }

    fn at(slot: u64) -> u64 {
        HEAD_BYTES + slot * SLOT_BYTES
    }

    fn read(&self, slot: u64) -> Option<(u64, Zeroizing<Vec<u8>>)> {
        let mut head = [0; SLOT_HEAD_BYTES];
        self.file.read_exact_at(&mut head, Self::at(slot)).ok()?;
        let (numbers, checksum) = head.split_at(16);
        let (number, length) = numbers.split_first_chunk::<8>()?;
        let (number, length) =
            (u64::from_be_bytes(*number), u64::from_be_bytes(length.try_into().ok()?));
        if number == 0 || length > SLOT_BYTES - SLOT_HEAD_BYTES as u64 {
            return None;
        }
        let mut bytes = Zeroizing::new(vec![0; usize::try_from(length).ok()?]);
        self.file.read_exact_at(&mut bytes, Self::at(slot) + SLOT_HEAD_BYTES as u64).ok()?;
        (sum(number, &bytes) == checksum).then_some((number, bytes))
    }

    /// Puts a state in the place of the one before. That one is in force until the last byte is
    /// written.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        if length > SLOT_BYTES - SLOT_HEAD_BYTES as u64 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let number = self.number + 1;
        let slot = Self::at(number % 2);
        self.file.write_all_at(bytes, slot + SLOT_HEAD_BYTES as u64)?;
        let mut head = [0; SLOT_HEAD_BYTES];
        head[..8].copy_from_slice(&number.to_be_bytes());
        head[8..16].copy_from_slice(&length.to_be_bytes());
        head[16..].copy_from_slice(&sum(number, bytes));
        self.file.write_all_at(&head, slot)?;
        self.number = number;
        Ok(())
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn sum(number: u64, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    Blake2s256::new().chain_update(number.to_be_bytes()).chain_update(bytes).finalize().into()
}

/// Memory with this content, which nobody can change any more.
pub(super) fn sealed(bytes: &[u8]) -> io::Result<File> {
    let file = memfd(c"weft-sessions")?;
    file.write_all_at(bytes, 0)?;
    let all = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    seal(&file, all)?;
    Ok(file)
}

/// The content of memory that [`sealed`] made.
pub(super) fn unsealed(fd: OwnedFd) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::from(fd);
    let length = file.metadata()?.len();
    if length > SESSIONS_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(length).unwrap_or_default()]);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn memfd(name: &std::ffi::CStr) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name lives during the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

fn seal(file: &File, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: takes a descriptor that is open, and a number.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(memory: &Memory) -> io::Result<(Memory, Zeroizing<Vec<u8>>)> {
        Memory::adopt(memory.as_fd().try_clone_to_owned().unwrap())
    }

    #[test]
    fn the_next_process_finds_what_was_written_last() {
        let mut memory = Memory::create().unwrap();
        assert!(again(&memory).is_err(), "nothing was written");
        for text in ["one", "two and more", "three"] {
            memory.write(text.as_bytes()).unwrap();
            let (next, bytes) = again(&memory).unwrap();
            assert_eq!(&bytes[..], text.as_bytes());
            next.note_success().unwrap();
            memory = next;
        }
    }

    #[test]
    fn a_write_that_broke_off_leaves_the_state_before_it() {
        let mut memory = Memory::create().unwrap();
        memory.write(b"whole").unwrap();
        memory.write(b"cut off").unwrap();
        // As if the process had died before the last bytes of the second one.
        memory.file.write_all_at(&[0; 4], Memory::at(0) + SLOT_HEAD_BYTES as u64).unwrap();
        let (mut next, bytes) = again(&memory).unwrap();
        assert_eq!(&bytes[..], b"whole");
        next.write(b"new").unwrap();
        assert_eq!(&again(&next).unwrap().1[..], b"new");
    }

    #[test]
    fn a_state_that_processes_die_of_is_given_up() {
        let mut memory = Memory::create().unwrap();
        memory.write(b"poison").unwrap();
        let lived = (0..100).take_while(|_| again(&memory).is_ok()).count();
        assert_eq!(lived, usize::from(ATTEMPTS_MAX));
    }

    #[test]
    fn what_is_too_long_is_refused_and_other_memory_too() {
        let mut memory = Memory::create().unwrap();
        memory.write(b"fits").unwrap();
        let too_long = usize::try_from(SLOT_BYTES).unwrap();
        assert!(memory.write(&vec![0; too_long]).is_err());
        assert_eq!(&again(&memory).unwrap().1[..], b"fits");
        assert!(Memory::adopt(sealed(b"short").unwrap().into()).is_err());
    }

    #[test]
    fn what_was_cleared_is_not_found() {
        let mut memory = Memory::create().unwrap();
        memory.write(b"one").unwrap();
        memory.write(b"two").unwrap();
        memory.clear().unwrap();
        assert!(again(&memory).is_err());
    }

    #[test]
    fn what_is_sealed_cannot_be_changed() {
        let file = sealed(b"sessions").unwrap();
        assert!(file.write_all_at(b"S", 0).is_err() && file.set_len(3).is_err());
        assert_eq!(&unsealed(file.into()).unwrap()[..], b"sessions");
    }
}
