//! What tells the network namespace that the calling thread is in from every other.

use std::{
    fs, io,
    os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, net::UnixDatagram},
    },
};

/// The inode of the calling thread's network namespace: no other namespace that is there has it.
pub fn own_netns_inode() -> io::Result<u32> {
    // The kernel's own number is 32 bits wide.
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino() as u32)
}

/// The kernel's number for the calling thread's network namespace, which no other namespace ever has.
///
/// # Minimum kernel version
///
/// 5.14.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    #[expect(unsafe_code, reason = "SO_NETNS_COOKIE has no wrapper")]
    // SAFETY: the number and its size live through the call, and the size is its own.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut size,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}
