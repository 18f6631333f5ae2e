//! Huge pages under flow tables. A million flows lie on 70,000 pages of 4 KB, far more than a
//! processor keeps translations for; on pages of 2 MB they are 150.
#![allow(unsafe_code)] // Places a mapping, and advises on memory.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};

/// Bytes of a huge page of x86-64, and of arm64 with 4 KB pages.
const HUGE_PAGE: usize = 2 << 20;

/// Maps `bytes` bytes of a file, to read and to write, where a huge page of the file can be a huge
/// page of memory: the kernel itself aligns a file on tmpfs only if it is mounted with `huge=`.
/// The mapping lives until the process ends.
///
/// # Safety
/// Nobody else writes the file or cuts it off.
pub(super) unsafe fn map_file(file: &File, bytes: usize) -> io::Result<&'static mut [u8]> {
    let reserve = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: the kernel chooses where; nothing is accessed.
    let room =
        unsafe { mmap_anonymous(ptr::null_mut(), bytes + HUGE_PAGE, ProtFlags::empty(), reserve) }?;
    let start = room.wrapping_byte_add(room.addr().wrapping_neg() % HUGE_PAGE);
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: it replaces a part of the reservation above, which nobody else knows.
    unsafe { mmap(start, bytes, access, MapFlags::SHARED | MapFlags::FIXED, file.as_fd(), 0) }?;
    // SAFETY: mapped to read and write for as long as the process lives, by this call alone.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.cast(), bytes) })
}

/// Puts memory on huge pages as far as the kernel can and may. Where it cannot, look-ups in a
/// large table take longer, and nothing else changes.
pub(super) fn collapse<T>(memory: &mut [T]) {
    let range = memory.as_mut_ptr_range();
    let start = range.start.addr().next_multiple_of(HUGE_PAGE);
    let end = range.end.addr() / HUGE_PAGE * HUGE_PAGE;
    if start >= end {
        return;
    }
    let first = range.start.cast::<libc::c_void>().with_addr(start);
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_POPULATE_WRITE, libc::MADV_COLLAPSE] {
        // SAFETY: the range is inside a slice that is ours; no advice changes a byte of it.
        if unsafe { libc::madvise(first, end - start, advice) } != 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(advice, %error, "no huge pages for a flow table");
        }
    }
}
