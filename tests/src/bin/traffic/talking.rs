//! Connections that last: as many as one likes, that say nothing or answer each other.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::options::unsent;

fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_no_ipv6| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .context("listen")
}

/// Opens connections and keeps them.
pub(crate) fn tcp_keep(to: &str, count: usize) -> Result<()> {
    let connect = || TcpStream::connect(to).with_context(|| format!("connect to {to}"));
    let _kept: Vec<_> = (0..count).map(|_number| connect()).collect::<Result<_>>()?;
    println!("open {count}");
    loop {
        thread::park();
    }
}

/// Gives everybody back what he says, on as many connections as there are.
pub(crate) fn tcp_echo(port: u16) -> Result<()> {
    for stream in listen(port)?.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        thread::spawn(move || -> Result<()> {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    read => stream.write_all(&buffer[..read])?,
                }
            }
        });
    }
    Ok(())
}

/// Says something, waits for it to come back, and again; waits for each to be acknowledged.
pub(crate) fn tcp_ping(to: &str, times: usize, size: usize) -> Result<()> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    let (said, mut heard) = (vec![b'p'; size], vec![0; size]);
    for _ in 0..times {
        stream.write_all(&said)?;
        stream.read_exact(&mut heard)?;
        ensure!(unsent(&stream)? == 0, "an answer acknowledges the question");
    }
    println!("pinged {times}");
    Ok(())
}

/// Listens with the shortest queue there is, and takes nobody.
pub(crate) fn tcp_neglect(port: u16) -> Result<()> {
    let listener = listen(port)?;
    // Listening again changes the length of the queue.
    #[expect(unsafe_code, reason = "no wrapper listens twice")]
    // SAFETY: a descriptor of this process, and a number.
    let result = unsafe { libc::listen(listener.as_raw_fd(), 0) };
    ensure!(result == 0, "cannot shorten the queue");
    loop {
        thread::park();
    }
}

/// Begins connections and gives each up before anybody answers.
pub(crate) fn tcp_give_up(to: &str, times: usize) -> Result<()> {
    let to: SocketAddr = to.parse()?;
    for _ in 0..times {
        let begun = TcpStream::connect_timeout(&to, Duration::from_millis(20));
        ensure!(begun.is_err(), "somebody has answered");
    }
    Ok(())
}

/// Tries once and says what became of it.
pub(crate) fn tcp_try(to: &str) {
    match TcpStream::connect(to) {
        Ok(_stream) => println!("connected"),
        Err(error) => println!("{}", error.raw_os_error().unwrap_or_default()),
    }
}
