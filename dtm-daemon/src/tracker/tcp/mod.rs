//! How containers' TCP connections fare.
//!
//! The kernel side counts by container, under a number that a container keeps through all its lives: what is in the map is
//! all there is. Beside it is what only a look at the sockets says.

mod looking;

use std::{collections::HashMap, path::PathBuf, sync::mpsc as std_mpsc};

use anyhow::Context as _;
use dtm_common::tcp::TcpCounters;
use tokio::sync::mpsc;

pub(super) use looking::Seen;
use looking::{Order, Place};

use super::{CHANNEL, TcpSnapshot, Tracker, containers::Tracked};
use crate::{
    bpf::{Former, Kernel, TcpMap},
    docker::ContainerId,
    net::ListenCounts,
};

/// What is known of a container's connections beside what the kernel side counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sockets {
    /// Connections beyond those that were counted, wrapping; none where that is not known.
    pub(crate) uncounted: Option<u64>,
    /// What its listeners could not take since dtm first saw it.
    pub(crate) listen: ListenCounts,
    /// The namespace whose listeners were read last, and what they said.
    pub(crate) last: Option<(u32, ListenCounts)>,
}

impl Sockets {
    /// Takes in what the listeners of a namespace say. What they could not take before dtm first saw them is not counted.
    fn listeners_say(&mut self, inode: u32, now: ListenCounts) {
        if let Some((_inode, last)) = self.last.filter(|(last, _counts)| *last == inode) {
            self.listen.overflows += now.overflows.saturating_sub(last.overflows);
            self.listen.drops += now.drops.saturating_sub(last.drops);
        }
        self.last = Some((inode, now));
    }
}

/// The thread that looks at sockets, where connections are counted at all.
pub(super) struct Looks {
    orders: Option<std_mpsc::Sender<Order>>,
}

impl Looks {
    /// Starts the thread, and has it told where its answers come.
    pub(super) fn start(
        kernel: &mut Kernel,
        procfs: PathBuf,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Seen>)> {
        let (results, seen) = mpsc::channel(CHANNEL);
        if kernel.tcp.is_none() {
            return Ok((Self { orders: None }, seen));
        }
        let walk = kernel.socket_walk().unwrap_or_else(|error| {
            let error = format_args!("{error:#}");
            tracing::warn!(error, "connections that are older than dtm are not counted");
            None
        });
        let (orders, queue) = std_mpsc::channel();
        looking::spawn(procfs, walk, queue, results).context("start the thread that looks at sockets")?;
        let orders = Some(orders);
        Ok((Self { orders }, seen))
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The thread lives as long as this sender does.
            drop(orders.send(order));
        }
    }
}

impl Tracker {
    /// Has the connections of a container counted, and looked at: those in a namespace, or those of its group on the host's
    /// network.
    pub(super) fn begin_tcp(&mut self, id: &ContainerId, inode: Option<u32>) {
        let Some(number) = self.containers.get(id).map(|tracked| tracked.number) else {
            return;
        };
        let Some(map) = &mut self.kernel.tcp else {
            return;
        };
        let entered = map.enter(number);
        self.check_map("tcp", entered);
        let id = id.clone();
        self.sockets.order(Order::Begin(Place { id, number, inode }));
    }

    /// Has nobody look at a container's sockets, which has no interface any more.
    pub(super) fn end_tcp(&mut self, id: &ContainerId) {
        if let Some(tracked) = self.containers.get_mut(id) {
            tracked.sockets.uncounted = None;
            self.sockets.order(Order::End(id.clone()));
        }
    }

    /// Forgets what connections of a container have done, of which nothing is shown any more.
    pub(super) fn forget_tcp(&mut self, number: u32) {
        if let Some(map) = &mut self.kernel.tcp {
            let result = map.remove(number);
            self.check_map("tcp", result);
        }
    }

    /// Takes in what was seen.
    pub(super) fn on_sockets(&mut self, seen: Seen) {
        let Seen {
            place: Place { id, inode, .. },
            uncounted,
            listen,
        } = seen;
        let Some(known) = self.containers.get(&id).map(|tracked| tracked.sockets) else {
            return;
        };
        let mut sockets = known;
        sockets.uncounted = uncounted.or(sockets.uncounted);
        if let Some((inode, listen)) = inode.zip(listen) {
            sockets.listeners_say(inode, listen);
        }
        // What changes is written down.
        if sockets != known
            && let Some(tracked) = self.containers.get_mut(&id)
        {
            tracked.sockets = sockets;
        }
    }

    /// Goes on with the containers that an earlier process knew.
    pub(super) fn resume_tcp(&mut self) {
        let begun: Vec<_> = self
            .interfaces
            .values()
            .filter_map(|interface| interface.role.named())
            .collect();
        let begun: Vec<_> = begun
            .into_iter()
            .map(|named| (named.container.clone(), named.netns_inode))
            .collect();
        for (id, inode) in begun {
            self.begin_tcp(&id, inode);
        }
    }

    /// Takes in what was counted in another map.
    pub(super) fn move_tcp(&mut self, former: &Former) {
        let Some(map) = &mut self.kernel.tcp else {
            return;
        };
        let counted = former.tcp().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read what an earlier dtm has counted of connections");
            HashMap::new()
        });
        let failed = counted
            .into_iter()
            .filter_map(|(number, counters)| map.add(number, counters).err())
            .last();
        if let Some(error) = failed {
            self.count_map_error("tcp", &error);
        }
    }

    /// What each container's connections have done, by its number.
    pub(super) fn read_tcp(&self) -> HashMap<u32, TcpCounters> {
        let read = self.kernel.tcp.as_ref().map(TcpMap::read);
        read.unwrap_or_else(|| Ok(HashMap::new()))
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot read the map of connections");
                HashMap::new()
            })
    }
}

/// What a scrape shows of a container's connections.
pub(super) fn snapshot(tracked: &Tracked, counters: &HashMap<u32, TcpCounters>) -> Option<Box<TcpSnapshot>> {
    let counters = *counters.get(&tracked.number)?;
    let Sockets {
        uncounted,
        listen,
        last,
    } = tracked.sockets;
    // Between a look and a reading one may have ended that neither has.
    let connections =
        uncounted.map(|uncounted| counters.current.wrapping_add(uncounted).cast_signed().max(0));
    Some(Box::new(TcpSnapshot {
        counters,
        connections: connections.map(i64::cast_unsigned),
        listen: last.map(|_read| listen),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(overflows: u64) -> ListenCounts {
        ListenCounts {
            overflows,
            drops: overflows + 1,
        }
    }

    #[test]
    fn listeners_count_from_when_they_are_first_seen_and_in_every_namespace() {
        let mut sockets = Sockets::default();
        sockets.listeners_say(7, counts(100));
        assert_eq!(sockets.listen, ListenCounts::default());
        sockets.listeners_say(7, counts(103));
        sockets.listeners_say(8, counts(1));
        sockets.listeners_say(8, counts(3));
        assert_eq!((sockets.listen.overflows, sockets.listen.drops), (5, 5));
    }
}
