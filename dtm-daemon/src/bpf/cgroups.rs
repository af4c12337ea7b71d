//! Births and ends of control groups, as the kernel side tells of them.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::PathBuf,
};

use anyhow::{Context as _, anyhow};
use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray, RingBuf},
    programs::{RawTracePoint, raw_trace_point::RawTracePointLink},
};
use dtm_common::cgroups::{CGROUP_MADE, CGROUP_PATH_BYTES, CGROUP_REMOVED, CONTAINER_ID_LENGTH};
use tokio::io::{Interest, unix::AsyncFd};

use super::kernel::take;

/// What happened to a control group whose name has a container's id in it.
///
/// Its path is relative to the root of the hierarchy of cgroup v2, wherever that is mounted, and begins with `/`. On a
/// kernel without type information the groups of v1's hierarchies are told of as well: an event is a reason to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupEvent {
    /// It was made. No process is in it yet.
    Made(PathBuf),
    /// It was removed, and whatever was attached to it with it.
    Removed(PathBuf),
    /// Events were lost: only looking at all groups tells what there is.
    Lost,
}

/// The events of [`CgroupEvent`]. Dropping it takes the programs off their tracepoints.
pub struct CgroupWatch {
    ring: AsyncFd<Ring>,
    /// What found no room in the ring, and how much of it was told.
    lost: PerCpuArray<MapData, u64>,
    told: u64,
    _links: [RawTracePointLink; 2],
}

impl CgroupWatch {
    pub(super) fn start(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut link = |name, tracepoint| {
            attach(ebpf, name, tracepoint)
                .with_context(|| format!("attach {name} to the tracepoint {tracepoint}"))
        };
        let links = [
            link("dtm_cgroup_mkdir", "cgroup_mkdir")?,
            link("dtm_cgroup_rmdir", "cgroup_rmdir")?,
        ];
        let ring = RingBuf::try_from(take(ebpf, "CGROUP_EVENTS")?)?;
        #[expect(
            unsafe_code,
            reason = "the promise that the descriptor stays open is the caller's"
        )]
        // SAFETY: the ring owns its map's descriptor and nothing closes it before it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(Ring(ring), Interest::READABLE) };
        Ok(Self {
            ring: ring.context("wait for events of control groups")?,
            lost: take(ebpf, "CGROUP_EVENTS_LOST")?.try_into()?,
            told: 0,
            _links: links,
        })
    }

    /// Waits for events and gives all that have happened, in their order; at least one.
    ///
    /// Cancel safe: what it has not given yet comes the next time.
    ///
    /// # Errors
    ///
    /// Where the runtime, or the map of what was lost, fails: there is no use in asking again.
    pub async fn next(&mut self) -> io::Result<Vec<CgroupEvent>> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let Ring(ring) = ready.get_inner_mut();
            let mut events = Vec::new();
            while let Some(record) = ring.next() {
                events.extend(event(&record));
            }
            ready.clear_ready();
            // After the ring, and it is full only while somebody has it to read: nothing that is lost goes unnoticed.
            let lost: u64 = self.lost.get(&0, 0).map_err(io::Error::other)?.iter().sum();
            if lost != self.told {
                self.told = lost;
                events.push(CgroupEvent::Lost);
            }
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

/// The ring, with the descriptor to wait for.
struct Ring(RingBuf<MapData>);

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn attach(ebpf: &mut Ebpf, name: &str, tracepoint: &str) -> anyhow::Result<RawTracePointLink> {
    let program: &mut RawTracePoint = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the kernel side has no program {name}"))?
        .try_into()?;
    program.load()?;
    let link = program.attach(tracepoint)?;
    Ok(program.take_link(link)?)
}

/// What a record says, if it is of a container's group.
fn event(record: &[u8]) -> Option<CgroupEvent> {
    let (kind, rest) = record.split_first_chunk()?;
    let (length, path) = rest.split_first_chunk()?;
    let (kind, length) = (u32::from_ne_bytes(*kind), u32::from_ne_bytes(*length) as usize);
    // One that could not be read whole is known by nobody.
    if length == 0 || length >= CGROUP_PATH_BYTES {
        return Some(CgroupEvent::Lost);
    }
    let path = path.get(..length - 1)?;
    if !names_a_container(path) {
        return None;
    }
    let path = PathBuf::from(OsStr::from_bytes(path));
    match kind {
        CGROUP_MADE => Some(CgroupEvent::Made(path)),
        CGROUP_REMOVED => Some(CgroupEvent::Removed(path)),
        _ => None,
    }
}

/// Whether the last component has an id in it: 64 hexadecimal digits, and none beside them.
fn names_a_container(path: &[u8]) -> bool {
    let is_hexadecimal = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.split(|byte| !is_hexadecimal(byte))
        .any(|digits| digits.len() == CONTAINER_ID_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, length: usize, path: &str) -> Vec<u8> {
        let mut record = [kind.to_ne_bytes(), (length as u32).to_ne_bytes()].concat();
        record.extend(path.bytes());
        record.resize(8 + CGROUP_PATH_BYTES, b'x');
        record
    }

    fn id() -> String {
        "0123456789abcdef".repeat(4)
    }

    #[test]
    fn groups_of_every_runtime_are_told_of() {
        for path in [
            "/docker/ID",
            "/parent/of/mine/ID",
            "/system.slice/docker-ID.scope",
            "/machine.slice/libpod-ID.scope",
        ] {
            let path = path.replace("ID", &id());
            let made = event(&record(CGROUP_MADE, path.len() + 1, &path));
            assert_eq!(made, Some(CgroupEvent::Made(PathBuf::from(&path))));
            let removed = event(&record(CGROUP_REMOVED, path.len() + 1, &path));
            assert_eq!(removed, Some(CgroupEvent::Removed(PathBuf::from(&path))));
        }
    }

    #[test]
    fn other_groups_are_not() {
        for path in [
            "/",
            "/user.slice",
            "/docker/ID/init.scope",
            "/docker/IDa",
            "/docker/IDx/",
            "/system.slice/a-name-longer-than-the-id-of-a-container-which-takes-sixty-four.service",
        ] {
            let path = path.replace("ID", &id());
            assert_eq!(event(&record(CGROUP_MADE, path.len() + 1, &path)), None, "{path}");
        }
    }

    #[test]
    fn what_could_not_be_read_whole_is_lost() {
        for length in [0, CGROUP_PATH_BYTES, CGROUP_PATH_BYTES + 1] {
            assert_eq!(
                event(&record(CGROUP_MADE, length, "/docker")),
                Some(CgroupEvent::Lost)
            );
        }
    }

    #[test]
    fn a_record_that_is_none_says_nothing() {
        assert_eq!(event(&[]), None);
        assert_eq!(event(&[1, 0, 0, 0, 9]), None);
        assert_eq!(event(&record(7, id().len() + 2, &format!("/{}", id()))), None);
    }
}
