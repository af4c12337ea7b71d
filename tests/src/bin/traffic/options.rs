//! Socket options without a wrapper.

use std::{io, os::fd::AsRawFd};

use anyhow::{Result, ensure};

/// Sets an option whose value is an int.
pub(crate) fn set_option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> Result<()> {
    #[expect(unsafe_code, reason = "these options have no wrapper")]
    // SAFETY: the option's value is an int that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    ensure!(result == 0, "set option {option}: {}", io::Error::last_os_error());
    Ok(())
}

/// Bytes of buffers that have not left the socket.
pub(crate) fn unsent(socket: &impl AsRawFd) -> Result<libc::c_int> {
    let mut bytes = 0;
    #[expect(unsafe_code, reason = "SIOCOUTQ has no wrapper")]
    // SAFETY: the kernel writes an int that lives through the call. SIOCOUTQ is TIOCOUTQ by another name.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    ensure!(result == 0, "SIOCOUTQ: {}", io::Error::last_os_error());
    Ok(bytes)
}
