//! As much of HTTP as asking a daemon how it is takes.

use std::io::{Read, Write};

use anyhow::{Context as _, Result};

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Status line and header fields.
    pub head: String,
    /// What follows them.
    pub body: String,
}

/// Asks for `path` over a fresh connection, with HTTP/1.0: the answer ends with the connection and comes whole.
pub fn get(connection: impl Read + Write, path: &str) -> Result<Answer> {
    exchange(
        connection,
        &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"),
        &[],
    )
}

/// As [`get`], with a body of the type `content`.
pub(super) fn post(connection: impl Read + Write, path: &str, content: &str, body: &[u8]) -> Result<Answer> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {content}\r\nContent-Length: {length}\r\n\r\n"
    );
    exchange(connection, &head, body)
}

fn exchange(mut connection: impl Read + Write, head: &str, body: &[u8]) -> Result<Answer> {
    let sent = connection.write_all(head.as_bytes());
    sent.and_then(|()| connection.write_all(body))
        .context("send the request")?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).context("read the answer")?;
    parse(&String::from_utf8_lossy(&answer)).context("no HTTP answer")
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_come_apart() {
        let answer = parse("HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\n\r\nOK").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "OK"));
        assert!(parse("SSH-2.0\r\n\r\n").is_none());
    }
}
