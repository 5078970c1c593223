//! Runs the programs on packets of a test's own, by `BPF_PROG_TEST_RUN`.
//!
//! The kernel sets no kind on a super-packet here (`gso_type`), so headers neither go on it nor come off.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::EbpfLoader;
use aya::programs::SchedClassifier;
use weft_abi::{DropReason, Verdict};

use crate::datapath::{Datapath, DeviceRole, EP_IN};
use crate::{Error, Limits, sys};

/// `vx_in` for packets without tunnel information: the sender is in [`Input::context_words`].
static TEST_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft_test.bpf.o"));
const VX_IN_TEST: &str = "vx_in_test";

/// Room for a packet in the kernel's test: one page less its head and tail room.
const PACKET_BYTES_MAX: usize = 4_096;

/// Offsets in `struct __sk_buff` and its size, as of Linux 6.18.
const IFINDEX: usize = 40;
const CB: usize = 48;
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;
const CONTEXT_BYTES: usize = 192;

/// The compiled programs, for a look at their type information.
pub fn object() -> &'static [u8] {
    crate::datapath::OBJECT
}

/// A packet at a device.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// From the Ethernet header on, at least 14 bytes.
    pub packet: Vec<u8>,
    /// The device, in the namespace of the thread.
    pub ifindex: u32,
    /// Payload bytes of each segment of a super-packet, else 0.
    pub gso_size: u32,
    /// `cb`, as [`Runner::receive`] sets it.
    pub context_words: [u32; 5],
}

/// What a program did with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// `TC_ACT_*`.
    pub code: u32,
    /// What it recorded; 0 for nothing.
    pub verdict: u32,
    /// Why it dropped the packet; 0 if it did not.
    pub reason: u32,
    /// ifindex, host id or VNI, by the verdict.
    pub target: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Mean time of a run.
    pub duration_ns: u32,
}

impl Output {
    /// The verdict by name.
    pub fn verdict(&self) -> Option<Verdict> {
        Verdict::ALL.iter().copied().find(|verdict| *verdict as u32 == self.verdict)
    }

    /// The drop reason by name.
    pub fn reason(&self) -> Option<DropReason> {
        DropReason::ALL.iter().copied().find(|reason| *reason as u32 == self.reason)
    }
}

/// The programs of an open data plane.
#[derive(Debug)]
pub struct Runner {
    programs: BTreeMap<&'static str, OwnedFd>,
}

impl Runner {
    /// Takes the programs of `datapath`, and loads the test's own one on the same maps.
    pub fn new(datapath: &Datapath, limits: &Limits) -> Result<Self, Error> {
        let load_error = |source| Error::Load { source };
        let mut programs = BTreeMap::new();
        for name in [EP_IN].into_iter().chain(DeviceRole::ALL.map(DeviceRole::program)) {
            let program =
                datapath.program(name).ok_or(Error::Incomplete { kind: "program", name })?;
            let fd = program.try_clone_to_owned().map_err(|error| load_error(error.into()))?;
            programs.insert(name, fd);
        }
        programs.insert(VX_IN_TEST, load_test_program(datapath, limits).map_err(load_error)?);
        Ok(Self { programs })
    }

    /// Runs the program of a port (`None`) or of another device.
    pub fn run(&self, role: Option<DeviceRole>, input: &Input) -> io::Result<Output> {
        self.run_named(role.map_or(EP_IN, DeviceRole::program), input, 1)
    }

    /// Runs it often, for the time that it takes. Only for packets that it does not change.
    pub fn repeat(
        &self,
        role: Option<DeviceRole>,
        input: &Input,
        times: u32,
    ) -> io::Result<Output> {
        self.run_named(role.map_or(EP_IN, DeviceRole::program), input, times)
    }

    /// Runs what the VXLAN device's program does with a packet that came from `sender` in network `vni`; VNI 0 leaves
    /// the tunnel information out.
    pub fn receive(&self, vni: u32, sender: [u8; 16], input: &Input) -> io::Result<Output> {
        let mut words = [vni, 0, 0, 0, 0];
        for (word, bytes) in words[1..].iter_mut().zip(sender.as_chunks().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        self.run_named(VX_IN_TEST, &Input { context_words: words, ..input.clone() }, 1)
    }

    fn run_named(&self, name: &str, input: &Input, times: u32) -> io::Result<Output> {
        let mut context = [0; CONTEXT_BYTES];
        put(&mut context, IFINDEX, input.ifindex);
        put(&mut context, GSO_SIZE, input.gso_size);
        if input.gso_size != 0 {
            put(&mut context, GSO_SEGS, 2);
        }
        for (index, word) in input.context_words.iter().enumerate() {
            put(&mut context, CB + 4 * index, *word);
        }
        let mut packet = vec![0; PACKET_BYTES_MAX];
        let result = sys::test_run(
            self.programs[name].as_fd(),
            &input.packet,
            &mut context,
            &mut packet,
            times,
        )?;
        packet.truncate(result.output_bytes);
        Ok(Output {
            code: result.code,
            verdict: get(&context, CB),
            reason: get(&context, CB + 4),
            target: get(&context, CB + 8),
            packet,
            duration_ns: result.duration_ns,
        })
    }
}

fn load_test_program(
    datapath: &Datapath,
    limits: &Limits,
) -> Result<OwnedFd, Box<dyn std::error::Error + Send + Sync>> {
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(datapath.map_pins());
    for shape in &crate::pins::MAPS {
        if let Some(rows) = limits.rows(shape.name) {
            loader.map_max_entries(shape.name, rows);
        }
    }
    let mut object = loader.load(TEST_OBJECT)?;
    let program: &mut SchedClassifier =
        object.program_mut(VX_IN_TEST).ok_or("no program")?.try_into()?;
    program.load()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

fn put(context: &mut [u8; CONTEXT_BYTES], offset: usize, value: u32) {
    context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
}

fn get(context: &[u8; CONTEXT_BYTES], offset: usize) -> u32 {
    u32::from_ne_bytes(context[offset..offset + 4].try_into().expect("4 bytes"))
}
