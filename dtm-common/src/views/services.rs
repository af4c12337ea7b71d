//! Which kind of service a port stands for, by the port alone (IANA "Service Name and Transport Protocol Port Number
//! Registry"; the ports above 1023 are the defaults of the servers that people run in containers).
#![expect(
    clippy::inline_always,
    reason = "the kernel side has no calls to spare per packet"
)]

/// How many kinds of services there are.
pub const SERVICES: usize = 4;

/// A kind of service. The number is its index in [`ViewTally::services`](super::ViewTally::services).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Unencrypted unless both sides agree on more: [`CLEARTEXT_PORTS`].
    Cleartext,
    /// TLS from the first byte: [`TLS_PORTS`].
    Tls,
    /// Another well-known service: [`WELL_KNOWN_PORTS`] and every other port below 1024.
    WellKnown,
    /// Any other port, and what has none.
    Other,
}

impl Service {
    /// Every kind, by its number.
    pub const ALL: [Self; SERVICES] = [Self::Cleartext, Self::Tls, Self::WellKnown, Self::Other];

    /// The `service` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cleartext => "cleartext",
            Self::Tls => "tls",
            Self::WellKnown => "well_known",
            Self::Other => "other",
        }
    }
}

macro_rules! ports {
    ($($(#[$documentation:meta])* $list:ident, $is:ident: $($port:literal)|+;)+) => {
        $(
            $(#[$documentation])*
            pub const $list: &[u16] = &[$($port),+];

            const fn $is(port: u16) -> bool {
                matches!(port, $($port)|+)
            }
        )+
    };
}

ports! {
    /// FTP, telnet, SMTP, TFTP, HTTP, POP3, NNTP, IMAP, SNMP, LDAP, rexec, rlogin, rsh and syslog; MQTT, NATS, `PostgreSQL`,
    /// `MySQL`, Redis, AMQP, Memcached, `MongoDB`, Elasticsearch, Kafka, `ZooKeeper`, and the usual other ports of HTTP.
    CLEARTEXT_PORTS, is_cleartext:
        20 | 21 | 23 | 25 | 69 | 80 | 110 | 119 | 143 | 161 | 162 | 389 | 512 | 513 | 514 | 1883 | 2181 | 3000 | 3306
        | 4222 | 5432 | 5672 | 6379 | 8000 | 8080 | 9092 | 9200 | 11211 | 27017;
    /// HTTPS and HTTP/3, SMTPS, LDAPS, DNS over TLS and QUIC, syslog over TLS, FTPS, telnets, IMAPS, POP3S, MQTT and AMQP
    /// over TLS, HTTPS' usual other port.
    TLS_PORTS, is_tls:
        443 | 465 | 563 | 636 | 853 | 989 | 990 | 992 | 993 | 995 | 5671 | 6514 | 8443 | 8883;
    /// Of those above 1023: `OpenVPN`, `IPsec` through NAT, RTMP, SIP and its variant with TLS, `BitTorrent`'s first, `WireGuard`,
    /// STUN and TURN.
    WELL_KNOWN_PORTS, is_well_known:
        1194 | 1935 | 3478 | 4500 | 5060 | 5061 | 5349 | 6881 | 51820;
}

/// Ports in a word of [`ports()`]: two bits each.
pub const PORTS_PER_WORD: u32 = 32;

/// Words of [`ports()`].
pub const PORT_WORDS: u32 = (1 << 16) / PORTS_PER_WORD;

/// What each port stands for, as the kernel side looks it up: [`Service`]'s number in two bits, the first port lowest.
pub fn ports() -> impl Iterator<Item = u64> {
    (0..PORT_WORDS).map(|word| {
        let first = word * PORTS_PER_WORD;
        (0..PORTS_PER_WORD).fold(0, |bits, at| {
            bits | (service_of((first + at) as u16) as u64) << (2 * at)
        })
    })
}

/// What a conversation between these two ports is, by the numbers of what each stands for: by the other side's port, and by
/// the container's own where that says nothing, for a container may be the server.
#[inline(always)]
pub const fn service(other_side: u32, own: u32) -> u32 {
    if other_side == Service::Other as u32 {
        own
    } else {
        other_side
    }
}

/// What a port stands for.
pub const fn service_of(port: u16) -> Service {
    if is_cleartext(port) {
        Service::Cleartext
    } else if is_tls(port) {
        Service::Tls
    } else if port != 0 && port < 1024 || is_well_known(port) {
        Service::WellKnown
    } else {
        Service::Other
    }
}
