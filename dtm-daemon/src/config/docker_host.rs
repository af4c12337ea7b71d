//! Where the Docker engine is.

use std::{fmt, path::PathBuf, str::FromStr};

use hyper::Uri;

/// The port of an unencrypted engine.
const DEFAULT_PORT: u16 = 2375;

/// The address of a Docker engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerHost {
    /// A socket of this machine, by its absolute path.
    Unix(PathBuf),
    /// HTTP over TCP, without TLS.
    Tcp {
        /// A name or an address; IPv6 in brackets.
        host: String,
        /// The port.
        port: u16,
    },
}

impl DockerHost {
    /// Where an engine listens unless told otherwise.
    pub const DEFAULT: &'static str = "unix:///var/run/docker.sock";
}

impl FromStr for DockerHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORMS: &str = "use unix:///path/to/docker.sock or tcp://host:port";
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("the scheme is missing: {FORMS}"));
        };
        match scheme {
            "unix" if rest.contains('\0') => Err(format!("not a path: {FORMS}")),
            "unix" if rest.starts_with('/') && rest.len() > 1 => Ok(Self::Unix(PathBuf::from(rest))),
            "unix" => Err(format!("the path of the socket must be absolute: {FORMS}")),
            "tcp" | "http" => tcp(rest).ok_or_else(|| format!("not a host and port: {FORMS}")),
            "https" | "ssh" | "npipe" | "fd" => Err(format!("{scheme}:// is not supported: {FORMS}")),
            _ => Err(format!("unknown scheme {scheme:?}: {FORMS}")),
        }
    }
}

/// `host`, `host:port` or `[address]:port`, with at most a slash behind it.
fn tcp(rest: &str) -> Option<DockerHost> {
    let uri = Uri::try_from(format!("http://{rest}")).ok()?;
    let authority = uri.authority()?;
    let port = match authority.port() {
        Some(port) => port.as_str().parse().ok().filter(|port| *port != 0)?,
        None if authority.as_str() == authority.host() => DEFAULT_PORT,
        None => return None,
    };
    let plain = uri.path() == "/" && uri.query().is_none() && !authority.as_str().contains('@');
    (plain && !authority.host().is_empty()).then(|| DockerHost::Tcp {
        host: authority.host().to_owned(),
        port,
    })
}

impl fmt::Display for DockerHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Self::Tcp { host, port } => write!(formatter, "tcp://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DockerHost;

    #[test]
    fn the_documented_forms_are_taken() {
        for (text, shown) in [
            (DockerHost::DEFAULT, "unix:///var/run/docker.sock"),
            (
                "unix:///run/user/1000/docker.sock",
                "unix:///run/user/1000/docker.sock",
            ),
            ("tcp://127.0.0.1:2375", "tcp://127.0.0.1:2375"),
            ("tcp://proxy", "tcp://proxy:2375"),
            ("http://proxy:80/", "tcp://proxy:80"),
            ("tcp://[::1]:2375", "tcp://[::1]:2375"),
        ] {
            assert_eq!(text.parse::<DockerHost>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn everything_else_is_refused_with_what_to_do() {
        for (text, reason) in [
            ("", "scheme is missing"),
            ("/var/run/docker.sock", "scheme is missing"),
            ("unix://", "absolute"),
            ("unix:///", "absolute"),
            ("unix://docker.sock", "absolute"),
            ("tcp://", "not a host and port"),
            ("tcp://:2375", "not a host and port"),
            ("tcp://host:", "not a host and port"),
            ("tcp://host:0", "not a host and port"),
            ("tcp://host:99999", "not a host and port"),
            ("tcp://host/path", "not a host and port"),
            ("tcp://user@host:1", "not a host and port"),
            ("tcp://two words:1", "not a host and port"),
            ("ssh://host", "not supported"),
            ("https://host:2376", "not supported"),
            ("ftp://host", "unknown scheme"),
        ] {
            let error = text.parse::<DockerHost>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(error.contains("use unix://"), "{text}: {error}");
        }
    }
}
