//! Addresses to listen on.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// Where to accept connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `:port`: every address of the host, of both IP versions where the host has both.
    Any(u16),
    /// One address and port.
    One(SocketAddr),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare_ipv6 = !text.starts_with('[') && text.matches(':').count() > 1;
        if bare_ipv6 || text.starts_with('[') && text.ends_with(']') {
            return Err("write an IPv6 address in brackets and with a port, such as [::1]:10048".to_owned());
        }
        if let Some(port) = text.strip_prefix(':') {
            return parse_port(port).map(Self::Any);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::One(address));
        }
        if text.parse::<Ipv4Addr>().is_ok() {
            return Err(format!("the port is missing, such as {text}:10048"));
        }
        match text.rsplit_once(':') {
            Some((host, port)) => {
                parse_port(port)?;
                Err(format!(
                    "{host:?} is not an IP address, and host names are not looked up"
                ))
            }
            None => Err("expected :port, an IPv4 address:port or an [IPv6 address]:port".to_owned()),
        }
    }
}

fn parse_port(port: &str) -> Result<u16, String> {
    // `u16::from_str` takes a sign.
    match port.parse() {
        Ok(number) if port.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => Err(format!("{port:?} is not a port, a number from 0 to 65535")),
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(port) => write!(formatter, ":{port}"),
            Self::One(address) => address.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ListenAddress;

    #[test]
    fn the_documented_forms_are_taken_and_shown_as_written() {
        for text in [
            ":10048",
            ":0",
            "0.0.0.0:1",
            "127.0.0.1:65535",
            "[::1]:10048",
            "[::]:80",
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn everything_else_is_refused_with_what_to_do() {
        for (text, reason) in [
            ("", "expected :port"),
            ("10048", "expected :port"),
            (":", "not a port"),
            (":+1", "not a port"),
            (":65536", "not a port"),
            (":http", "not a port"),
            ("localhost:10048", "host names are not looked up"),
            ("dtm.example.com:1", "host names are not looked up"),
            ("127.0.0.1", "the port is missing"),
            ("::1", "in brackets"),
            ("::1:10048", "in brackets"),
            ("[::1]", "in brackets"),
            ("localhost:x", "not a port"),
        ] {
            let error = text.parse::<ListenAddress>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
