//! Births and ends of control groups, told to the daemon one record each.

/// Bytes of the ring that the records wait in: about 500 of them.
pub const CGROUP_EVENTS_BYTES: u32 = 256 * 1024;

/// Bytes of a path in a record, its terminating zero included. `/<parent>/<id>` takes about a hundred.
pub const CGROUP_PATH_BYTES: usize = 512;

/// Hexadecimal digits of a container's id, which its group's name ends in, or has before `.scope`.
pub const CONTAINER_ID_LENGTH: usize = 64;

/// A group was made.
pub const CGROUP_MADE: u32 = 1;
/// A group was removed.
pub const CGROUP_REMOVED: u32 = 2;

/// What happened to a group.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CgroupRecord {
    /// [`CGROUP_MADE`] or [`CGROUP_REMOVED`].
    pub kind: u32,
    /// Bytes of the path, its terminating zero included; all of [`CGROUP_PATH_BYTES`] where it may have been cut off;
    /// 0 where it could not be read.
    pub length: u32,
    /// The path below the root of the hierarchy. What comes after `length` is anything.
    pub path: [u8; CGROUP_PATH_BYTES],
}

const _: () = assert!(size_of::<CgroupRecord>() == 8 + CGROUP_PATH_BYTES);
