//! The built programs: `weir.bpf.o`, committed and rebuilt by `scripts/bpf`.

/// The loader reads the ELF in place and wants it aligned.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!("../weir.bpf.o"));

/// The ELF object with all programs.
pub static OBJECT: &[u8] = &ALIGNED.0;
