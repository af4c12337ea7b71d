//! Whether an interface may have an XDP program.

use std::{fs, os::fd::AsFd as _, path::Path};

use crate::net::{Link, LinkKind, Requests, mounted_netns, namespace_id};

/// The loopback interface's index, which every network namespace has it by.
const LOOPBACK: u32 = 1;

/// Why nothing is attached to what the operator has named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There may be one later.
    #[error("there is no such interface; it is counted as soon as there is")]
    Missing,
    /// Nothing arrives there from outside.
    #[error("it is the loopback interface: nothing arrives there from outside")]
    Loopback,
    /// One end of a pair whose other is a container's, or is to be.
    #[error(
        "it is the host's end of a container's interface: XDP there takes the container's segmentation offloads away, \
         and with them three quarters of its throughput; name the uplink or the bridge"
    )]
    Container,
}

/// The index of the interface to attach to. `requests` is of its network namespace, `docker_netns` where the engine mounts
/// those of its containers.
pub(crate) fn judge(
    link: Option<&Link>,
    requests: &mut Requests,
    docker_netns: &Path,
) -> Result<u32, Refusal> {
    let link = link.ok_or(Refusal::Missing)?;
    refusal(link, |nsid| is_containers(nsid, requests, docker_netns)).map_or(Ok(link.ifindex), Err)
}

/// A host's own uplink may be one end of a pair too, where the host is in a container itself: what tells it from its
/// containers' is the bridge that these are ports of, or whose namespace the other end is in.
fn refusal(link: &Link, is_containers: impl FnOnce(i32) -> bool) -> Option<Refusal> {
    if link.ifindex == LOOPBACK {
        return Some(Refusal::Loopback);
    }
    let is_containers = match (link.kind, link.peer_nsid) {
        (LinkKind::Veth, _) if link.is_host_end() => true,
        (LinkKind::Veth, Some(nsid)) => is_containers(nsid),
        _ => false,
    };
    is_containers.then_some(Refusal::Container)
}

/// Whether the namespace with this id is one that the engine has made.
fn is_containers(nsid: i32, requests: &mut Requests, docker_netns: &Path) -> bool {
    let entries = fs::read_dir(docker_netns).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| mounted_netns(&entry.path()).ok())
        .any(|(netns, _inode)| namespace_id(requests, netns.as_fd()).is_ok_and(|id| id == Some(nsid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: LinkKind, master: Option<u32>, peer_nsid: Option<i32>) -> Link {
        Link {
            ifindex: 7,
            name: "x".into(),
            kind,
            master,
            peer: Some(3),
            peer_nsid,
            mac: None,
            up: true,
        }
    }

    #[test]
    fn what_is_a_containers_is_left_alone() {
        use LinkKind::{Bridge, Other, OwnDevice, Veth};
        for (link, expected) in [
            (link(Veth, Some(5), Some(0)), Some(Refusal::Container)),
            (link(Veth, Some(5), None), Some(Refusal::Container)),
            (link(Veth, None, Some(1)), Some(Refusal::Container)),
            (link(Veth, None, Some(0)), None),
            (link(Veth, None, None), None),
            (link(Bridge, None, None), None),
            // A card that is a port of a bridge is an uplink all the same.
            (link(Other, Some(5), None), None),
            (link(OwnDevice, None, Some(1)), None),
        ] {
            assert_eq!(refusal(&link, |nsid| nsid == 1), expected, "{link:?}");
        }
        let loopback = Link {
            ifindex: 1,
            ..link(Other, None, None)
        };
        assert_eq!(refusal(&loopback, |_nsid| false), Some(Refusal::Loopback));
    }

    #[test]
    fn what_is_not_there_is_waited_for() {
        let mut requests = Requests::open().unwrap();
        let judged = judge(None, &mut requests, Path::new("/nonexistent"));
        assert_eq!(judged, Err(Refusal::Missing));
    }
}
