//! Hears from the kernel that this virtual machine is a copy, or was set back to a snapshot
//! (driver vmgenid: a uevent with NEW_VMGENID).
//!
//! Faults assumed: there is no such driver, kernel or hypervisor, or a message is lost: then only
//! what nodes have seen shows a rollback.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tracing::warn;

/// The kernel's own messages.
const KERNEL_GROUP: u32 = 1;
/// Longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Messages that are looked at together, at most.
const MESSAGES_MAX: usize = 256;

/// Where the kernel tells of changes.
#[derive(Debug)]
pub(super) struct Changes(Option<OwnedFd>);

impl Changes {
    /// Listens from now on. A system that does not let this process listen is only a warning.
    pub(super) fn listen() -> Self {
        let fd = listen();
        if let Err(error) = &fd {
            warn!(%error, "a change of the VM generation id would not be heard");
        }
        Self(fd.ok())
    }

    /// Whether the machine's generation has changed since this was asked last. Does not wait.
    pub(super) fn have_come(&self) -> bool {
        let Some(fd) = &self.0 else { return false };
        let mut message = [0; MESSAGE_BYTES_MAX];
        let mut found = false;
        for _ in 0..MESSAGES_MAX {
            match recv(fd, &mut message[..], RecvFlags::DONTWAIT) {
                Ok((bytes, _)) => found |= is_generation_change(&message[..bytes]),
                // Some were lost; the next ones may be there.
                Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        found
    }
}

fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
    bind(&fd, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    Ok(fd)
}

fn is_generation_change(message: &[u8]) -> bool {
    message.split(|byte| *byte == 0).any(|part| part == b"NEW_VMGENID=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_message_is_recognised_and_others_are_not() {
        let change = b"change@/devices/x\0ACTION=change\0SUBSYSTEM=acpi\0NEW_VMGENID=1\0SEQNUM=7\0";
        assert!(is_generation_change(change));
        for other in [&b"add@/devices/x\0ACTION=add\0"[..], b"", b"\0\0", b"NEW_VMGENID=10"] {
            assert!(!is_generation_change(other));
        }
    }

    #[test]
    fn it_can_be_listened_to_without_waiting() {
        let changes = Changes::listen();
        assert!(changes.0.is_some());
        assert!(!changes.have_come());
    }
}
