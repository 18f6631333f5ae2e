//! The two eBPF programs of this bench, a dozen instructions each, and how they are run. The
//! dataplane's own programs are loaded by aya; these have no object file to load.
#![allow(unsafe_code)] // Each call of bpf(2) passes a structure by address.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

// Commands, types and flags of linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 2;
const XDP_FLAGS_DRV_MODE: u32 = 4;
const XDP_DROP: i32 = 1;
const HELPER_PRANDOM_U32: i32 = 7;
const HELPER_REDIRECT: i32 = 23;

/// Where the source port of UDP over IPv4 without options is in a frame.
const SPORT_AT: i16 = 34;
/// Least bytes of the frames.
const FRAME_MIN: i32 = 64;

/// An instruction: opcode, destination and source register, offset, immediate.
const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    let registers = (src << 4 | dst) as u64;
    code as u64 | registers << 8 | (off as u16 as u64) << 16 | (imm as u32 as u64) << 32
}

const fn call(helper: i32) -> u64 {
    insn(0x85, 0, 0, 0, helper)
}

const EXIT: u64 = insn(0x95, 0, 0, 0, 0);

/// A loaded XDP program.
pub struct Program(OwnedFd);

impl Program {
    /// Drops every packet. The interface counts them.
    pub fn sink() -> Result<Program> {
        Program::load(&[insn(0xb7, 0, 0, 0, XDP_DROP), EXIT])
    }

    /// Gives each packet one of 1024 source ports, at random, and sends it out of an interface.
    pub fn source(ifindex: u32) -> Result<Program> {
        Program::load(&[
            insn(0xbf, 6, 1, 0, 0), // r6 = context
            call(HELPER_PRANDOM_U32),
            insn(0x61, 7, 6, 0, 0),              // r7 = data
            insn(0x61, 8, 6, 4, 0),              // r8 = data_end
            insn(0xbf, 2, 7, 0, 0),              // r2 = data
            insn(0x07, 2, 0, 0, FRAME_MIN),      // r2 += 64
            insn(0x2d, 2, 8, 3, 0),              // if r2 > data_end: skip the next three
            insn(0x57, 0, 0, 0, 0x3ff),          // r0 &= 0x3ff
            insn(0x47, 0, 0, 0, 0x8000),         // r0 |= 0x8000: no port 0
            insn(0x6b, 7, 0, SPORT_AT, 0),       // source port = r0
            insn(0xb7, 1, 0, 0, ifindex as i32), // r1 = interface
            insn(0xb7, 2, 0, 0, 0),              // r2 = no flags
            call(HELPER_REDIRECT),
            EXIT,
        ])
    }

    fn load(instructions: &[u64]) -> Result<Program> {
        #[repr(C)]
        struct Load {
            prog_type: u32,
            insn_cnt: u32,
            insns: u64,
            license: u64,
        }
        let license = c"GPL";
        let load = Load {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr().expose_provenance() as u64,
            license: license.as_ptr().expose_provenance() as u64,
        };
        let fd = call_bpf(BPF_PROG_LOAD, &load).context("loading a program of this bench")?;
        // SAFETY: the call has just made this descriptor.
        Ok(Program(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Attaches natively to an interface of this network namespace, until the link is dropped.
    pub fn attach(&self, ifindex: u32) -> Result<OwnedFd> {
        #[repr(C)]
        struct Create {
            prog_fd: i32,
            target_ifindex: u32,
            attach_type: u32,
            flags: u32,
        }
        let create = Create {
            prog_fd: self.0.as_raw_fd(),
            target_ifindex: ifindex,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        let fd = call_bpf(BPF_LINK_CREATE, &create).context("attaching the sink")?;
        // SAFETY: the call has just made this descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Sends `repeat` copies of a frame as if they came in by an interface of this namespace.
    pub fn send(&self, frame: &[u8], repeat: u32, ifindex: u32) -> Result<()> {
        #[repr(C)]
        #[derive(Default)]
        struct TestRun {
            prog_fd: i32,
            retval: u32,
            data_size_in: u32,
            data_size_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
            ctx_size_in: u32,
            ctx_size_out: u32,
            ctx_in: u64,
            ctx_out: u64,
            flags: u32,
            cpu: u32,
            batch_size: u32,
            pad: u32,
        }
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index,
        // egress_ifindex.
        let context: [u32; 6] = [0, frame.len() as u32, 0, ifindex, 0, 0];
        let run = TestRun {
            prog_fd: self.0.as_raw_fd(),
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr().expose_provenance() as u64,
            repeat,
            ctx_size_in: size_of_val(&context) as u32,
            ctx_in: context.as_ptr().expose_provenance() as u64,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            batch_size: 64,
            ..TestRun::default()
        };
        match call_bpf(BPF_PROG_TEST_RUN, &run) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(error).context("sending live frames (Linux 5.18 has them)")
            }
            _ => Ok(()),
        }
    }
}

fn call_bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the structure is laid out as the command wants it and outlives the call, and so do
    // the buffers that it names; the kernel writes only into the structure's counters.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
