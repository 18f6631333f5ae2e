//! The kernel's interfaces, by name.

use std::io;

/// How the kernel's interfaces are looked up.
pub trait Interfaces: Send {
    /// Index of the interface of this name; `None` where there is none.
    ///
    /// # Errors
    /// The kernel does not answer.
    fn find_index(&self, name: &str) -> io::Result<Option<u32>>;
}

/// The interfaces of the calling thread's network namespace.
#[derive(Debug, Default)]
pub struct KernelInterfaces;

impl Interfaces for KernelInterfaces {
    fn find_index(&self, name: &str) -> io::Result<Option<u32>> {
        use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
        // Longer names do not exist (IFNAMSIZ), and rustix would refuse them as an invalid call.
        if name.is_empty() || name.len() > 15 || name.contains('\0') {
            return Ok(None);
        }
        let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        match name_to_index(&socket, name) {
            Ok(index) => Ok(Some(index)),
            Err(rustix::io::Errno::NODEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
