//! How TCP connections fare: what the kernel side counts for each container.

/// Containers that are counted for. The daemon has an entry for each that has an interface or a group; when it is full,
/// the connections of further ones are not counted, and the daemon counts the failed update.
pub const TCP_ENTRIES: u32 = 8_192;

/// Connections that are being opened by local sockets and whose start is remembered. When it is full, `ERRORS` counts, and
/// the time of that handshake is not known.
pub const HANDSHAKES_ENTRIES: u32 = 65_536;

/// Buckets of a histogram, the one without a bound included.
pub const BUCKETS: usize = 16;

/// Upper bounds of the other buckets, in microseconds: from two containers on one host to a handshake that needed its SYN
/// three times.
pub const BOUNDS: [u32; BUCKETS - 1] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// The bucket of a time in microseconds.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the kernel side has no calls to spare")]
pub const fn bucket(microseconds: u32) -> usize {
    let (mut bucket, mut at) = (0, 0);
    while at < BOUNDS.len() {
        bucket += (microseconds > BOUNDS[at]) as usize;
        at += 1;
    }
    bucket
}

/// What a connection can be asked to tell of: `BPF_SOCK_OPS_RETRANS_CB_FLAG`, `_STATE_CB_FLAG` and `_RTT_CB_FLAG` of
/// `include/uapi/linux/bpf.h`.
pub const TELLS_RETRANSMISSIONS: u32 = 1 << 1;
/// See [`TELLS_RETRANSMISSIONS`].
pub const TELLS_STATES: u32 = 1 << 2;
/// See [`TELLS_RETRANSMISSIONS`].
pub const TELLS_ROUND_TRIPS: u32 = 1 << 3;

/// Added to a count of connections for each that will not tell when it ends.
pub const UNTOLD: u64 = 1 << 32;

/// How many times were this long.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// By [`bucket`]; not cumulative.
    pub buckets: [u64; BUCKETS],
    /// Of all of them, in microseconds.
    pub sum: u64,
}

/// Who asked for a connection; the number is its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpRole {
    /// The container.
    Client,
    /// The other side.
    Server,
}

impl TcpRole {
    /// Both, by their numbers.
    pub const ALL: [Self; 2] = [Self::Client, Self::Server];

    /// The `role` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// Why a connection that a container asked for did not come about; the number is its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpFailure {
    /// Somebody answered with RST (`ECONNREFUSED`).
    Refused,
    /// Nobody answered (`ETIMEDOUT`).
    Timeout,
    /// ICMP said that there is no way (`EHOSTUNREACH`, `ENETUNREACH`).
    Unreachable,
    /// Anything else: above all the container gave up.
    Other,
}

impl TcpFailure {
    /// All of them, by their numbers.
    pub const ALL: [Self; 4] = [Self::Refused, Self::Timeout, Self::Unreachable, Self::Other];

    /// The `reason` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
        }
    }
}

/// What the connections of one container have done.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters {
    /// Segments that were sent again, SYN-ACKs among them, as the kernel's `RetransSegs`.
    pub retransmitted: u64,
    /// RST segments received by sockets of a group on the host's network; others' are counted where they pass.
    pub resets_received: u64,
    /// The same sent.
    pub resets_sent: u64,
    /// Connections that were established, by [`TcpRole`].
    pub opened: [u64; 2],
    /// Connections that did not come about, by [`TcpFailure`].
    pub failed: [u64; 4],
    /// Connections that were established and, since then, have begun to end: as the kernel's `CurrEstab`, without what there
    /// was before. Wraps around below 0.
    pub current: u64,
    /// Smoothed round-trip times, at most one for each round trip.
    pub rtt: Histogram,
    /// How long handshakes took, by [`TcpRole`].
    pub connect: [Histogram; 2],
}

/// 64-bit words of [`TcpCounters`].
pub const TCP_WORDS: usize = size_of::<TcpCounters>() / size_of::<u64>();

const _: () = assert!(size_of::<TcpCounters>() == 8 * (3 + 2 + 4 + 1 + 3 * (BUCKETS + 1)));

impl TcpCounters {
    /// All its words, in the order of the memory. The place of a word is what the journal knows it by.
    pub fn words_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        let Self {
            retransmitted,
            resets_received,
            resets_sent,
            opened,
            failed,
            current,
            rtt,
            connect,
        } = self;
        let histograms = [rtt].into_iter().chain(connect);
        [retransmitted, resets_received, resets_sent]
            .into_iter()
            .chain(opened)
            .chain(failed)
            .chain([current])
            .chain(histograms.flat_map(|Histogram { buckets, sum }| buckets.iter_mut().chain([sum])))
    }

    /// The same, to read.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        let mut copy = *self;
        let mut words = [0; TCP_WORDS];
        for (word, from) in words.iter_mut().zip(copy.words_mut()) {
            *word = *from;
        }
        words.into_iter()
    }
}

#[cfg(not(target_arch = "bpf"))]
mod pod {
    #![expect(unsafe_code, reason = "Pod is an unsafe marker trait")]

    // SAFETY: `repr(C)`, only `u64` fields, no padding, every bit pattern valid.
    unsafe impl aya::Pod for super::TcpCounters {}
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_bound_is_in_its_own_bucket() {
        assert_eq!(bucket(0), 0);
        for (number, bound) in BOUNDS.into_iter().enumerate() {
            assert_eq!((bucket(bound), bucket(bound + 1)), (number, number + 1));
        }
        assert_eq!(bucket(u32::MAX), BUCKETS - 1);
    }

    #[test]
    fn every_word_is_there_once() {
        let mut counters = TcpCounters::default();
        for (number, word) in (1..).zip(counters.words_mut()) {
            *word = number;
        }
        let words: Vec<_> = counters.words().collect();
        assert!(words.iter().copied().eq(1..=TCP_WORDS as u64));
        assert_eq!(
            (counters.retransmitted, counters.connect[1].sum),
            (1, TCP_WORDS as u64)
        );
    }
}
