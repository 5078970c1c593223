//! What a device does for large packets, by `SIOCETHTOOL` (linux/ethtool.h).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
const NAME_BYTES: usize = 32;
/// Features that a kernel may name; 6.18 names some 60.
const FEATURES_MAX: usize = 256;
/// `struct ethtool_get_features_block`: available, requested, active, never changed.
const BLOCK_WORDS: usize = 4;

/// Offloads of a device that decide how packets between hosts are best built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// It takes TCP super-packets inside VXLAN whole.
    pub udp_tunnel_segmentation: bool,
    /// It joins what it receives into super-packets.
    pub gro: bool,
}

/// Reads the offloads of a device of the calling thread's namespace.
pub fn offloads(device: &str) -> io::Result<Offloads> {
    // SAFETY: no pointers; the descriptor is new and owned by nobody else.
    let socket = unsafe {
        let descriptor = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    // { command, reserved, mask as u64, count }: the kernel clears the mask where it has no such
    // set.
    let mut info = vec![ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    call(&socket, device, &mut info)?;
    let count = usize::try_from(info[4]).unwrap_or(usize::MAX).min(FEATURES_MAX);

    // { command, set, count, names }.
    let mut names = vec![0; 3 + count * NAME_BYTES / size_of::<u32>()];
    names[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, to_u32(count)]);
    call(&socket, device, &mut names)?;
    let names: Vec<u8> = names[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();

    // { command, size in blocks, blocks }.
    let blocks = count.div_ceil(32);
    let mut features = vec![0; 2 + blocks * BLOCK_WORDS];
    features[..2].copy_from_slice(&[ETHTOOL_GFEATURES, to_u32(blocks)]);
    call(&socket, device, &mut features)?;

    let is_active = |name: &str| {
        let index = names
            .chunks(NAME_BYTES)
            .position(|chunk| chunk.split(|byte| *byte == 0).next() == Some(name.as_bytes()));
        index.is_some_and(|index| {
            features[2 + index / 32 * BLOCK_WORDS + 2] >> (index % 32) & 1 == 1
        })
    };
    Ok(Offloads {
        udp_tunnel_segmentation: is_active("tx-udp_tnl-segmentation"),
        gro: is_active("rx-gro"),
    })
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).expect("at most FEATURES_MAX")
}

fn call(socket: &OwnedFd, device: &str, command: &mut [u32]) -> io::Result<()> {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = command.as_mut_ptr().cast();
    // SAFETY: the kernel writes no more into `command` than its own header asks for, which is its
    // length.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_takes_everything_whole() {
        let loopback = offloads("lo").unwrap();
        assert!(loopback.gro, "{loopback:?}");
    }

    #[test]
    fn a_missing_device_is_said_to_be_missing() {
        assert_eq!(offloads("nosuchdevice0").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert!(offloads("a-name-that-is-too-long-for-a-device").is_err());
    }
}
