//! Clients that take their time, or take nothing at all.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    bind,
    connections::{self, Limits},
    router,
};
use crate::{metrics::fixture, tracker::TrackerHandle};

/// More than the kernel keeps for a connection at either end.
const LARGE: usize = 8 << 20;
const ANSWER: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(20);

/// A server whose answers are large, until the guard is dropped.
async fn start(connections: usize) -> (SocketAddr, DropGuard) {
    let config = fixture::config(&["--web.listen-address=127.0.0.1:0"]);
    let listeners = bind(&config).await.unwrap();
    let address = listeners[0].local_addr().unwrap();
    let mut snapshot = fixture::snapshot();
    let one = snapshot.containers[0].clone();
    snapshot.containers = vec![one; LARGE / 1_000];
    let router = router(TrackerHandle::answering(snapshot, true), (*config).clone());
    let limits = Limits {
        connections,
        answer: ANSWER,
        ..Limits::default()
    };
    let cancel = CancellationToken::new();
    tokio::spawn(connections::serve(listeners, router, limits, cancel.clone()));
    (address, cancel.drop_guard())
}

/// A client that has asked, and whose side of the connection holds next to nothing.
fn asking(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: dtm\r\n\r\n")
        .unwrap();
    stream
}

/// Reads all of an answer as fast as it comes.
fn served(address: SocketAddr) -> usize {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: dtm\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    answer.len()
}

/// Reads some bytes one by one, then all that came before the server put an end to it; how many there were.
fn trickle(mut stream: TcpStream, pause: Duration) -> usize {
    let (mut total, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        let length = if total < 20 { 1 } else { buffer.len() };
        match stream.read(&mut buffer[..length]) {
            Ok(0) => return total,
            Ok(count) => total += count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return total,
            Err(error) => panic!("{error}"),
        }
        if total < 20 {
            std::thread::park_timeout(pause);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_take_an_answer_loses_it_and_others_never_notice() {
    let (address, _server) = start(64).await;
    let whole = served(address);
    let mute = asking(address);
    let slow = asking(address);
    let clients = std::thread::spawn(move || {
        let slow = std::thread::spawn(move || trickle(slow, ANSWER / 10));
        let begin = Instant::now();
        while begin.elapsed() < ANSWER * 2 {
            // Sizes differ by the digits of the process' own numbers.
            assert!(served(address).abs_diff(whole) < 100);
        }
        (trickle(mute, Duration::ZERO), slow.join().unwrap())
    });
    let (mute, slow) = clients.join().unwrap();
    assert!(mute < whole, "{mute} of {whole}");
    assert!(slow > 0 && slow < whole, "{slow} of {whole}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stillest_of_too_many_connections_makes_room_for_a_new_one() {
    let (address, _server) = start(3).await;
    let idle = TcpStream::connect(address).unwrap();
    let mute: Vec<_> = (0..2).map(|_| asking(address)).collect();
    // One after the other, each in place of one that is still.
    let whole = served(address);
    assert!(served(address).abs_diff(whole) < 100);
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(
        (&idle).read(&mut [0]).unwrap(),
        0,
        "the one that never moved went first"
    );
    drop(mute);
}
