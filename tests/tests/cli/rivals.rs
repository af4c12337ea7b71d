//! Two daemons in one network namespace: the second says who the first is, and touches nothing.
#![expect(unsafe_code, reason = "a queue that is full at once needs listen(2) itself")]

use std::{
    ffi::OsString,
    os::{
        fd::AsRawFd as _,
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::daemon::{Dtm, binary};
use rustix::{
    process::{Uid, getpid},
    thread::set_thread_uid,
};
use xtask::host::{CgroupWorld, Host};

use dtm_tests::attached;

use crate::{
    refusals::check,
    scene::{Pair, Scene},
};

/// The abstract name that the one dtm of a network namespace holds.
const NAME: &[u8] = b"dtm-one-per-network-namespace";

/// The user that may nothing.
const NOBODY: u32 = 65534;

/// What tells a second one apart, so that only the first is in its way.
const ELSEWHERE: &str = "--web.listen-address=:10049";

fn second(host: &Host, through: &[&str]) -> Result<Command> {
    let words = through.iter().map(OsString::from);
    let words: Vec<_> = words.chain([binary("dtm")?.into(), ELSEWHERE.into()]).collect();
    let mut command = host.command(&words[0]);
    command.args(&words[1..]);
    Ok(command)
}

#[test]
fn a_second_dtm_names_the_first_which_goes_on() -> Result<()> {
    let scene = Scene::new()?;
    for mode in ["clsact", "tcx"] {
        let first = Dtm::start(&scene.host, &["--attach-mode", mode, "--no-pin"])?;
        let before = attached::to_interfaces(&scene.host)?;
        assert_eq!(before.len(), 2, "{before:?}");
        let process = format!("another dtm (process {})", first.id());
        check(
            second(&scene.host, &[])?.args(["--attach-mode", mode]),
            1,
            &[&process, "stop it first"],
        )?;
        // As in a container of its own that shares the host's network.
        let contained = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--"];
        let unseen = "another dtm (a process that cannot be seen from here)";
        check(&mut second(&scene.host, &contained)?, 1, &[unseen])?;
        assert_eq!(attached::to_interfaces(&scene.host)?, before);
        assert_eq!(first.samples()?.get("dtm_reattached_total", &[])?, 0);
        first.stop()?;
        assert_eq!(attached::to_interfaces(&scene.host)?, []);
    }
    Ok(())
}

#[test]
fn a_dtm_that_was_killed_or_is_stopping_makes_room() -> Result<()> {
    let scene = Scene::new()?;
    let mut killed = scene.host.spawn(binary("dtm")?, [ELSEWHERE])?;
    xtask::host::eventually(crate::scene::PATIENCE, "dtm is attached", || {
        Ok((attached::to_interfaces(&scene.host)?.len() == 2).then_some(()))
    })?;
    killed.kill()?;
    let stopping = Dtm::start(&scene.host, &[])?;
    let next = scene.host.spawn(binary("dtm")?, [] as [&str; 0])?;
    stopping.stop()?;
    let next = Dtm::started(&scene.host, next)?;
    assert_eq!(attached::to_interfaces(&scene.host)?.len(), 2);
    next.stop()
}

#[test]
fn two_network_namespaces_have_one_each() -> Result<()> {
    let scene = Scene::new()?;
    let other = Host::new(CgroupWorld::V2)?;
    let pair = Pair::make(&other, 1)?;
    let one = Dtm::start(&scene.host, &[])?;
    let two = Dtm::start(&other, &[])?;
    assert_eq!(attached::to_interfaces(&scene.host)?.len(), 2);
    assert_eq!(attached::to_interfaces(&other)?.len(), 2);
    one.stop()?;
    two.stop()?;
    pair.remove(&other)
}

/// Anybody may hold the name: a start then ends at once, and says who.
#[test]
fn a_holder_that_is_no_dtm_is_described_and_not_waited_for() -> Result<()> {
    let scene = Scene::new()?;
    let address = SocketAddr::from_abstract_name(NAME).context("name a socket")?;
    let listener = scene.host.network()?.enter(|| -> Result<UnixListener> {
        // For this thread, which ends with this.
        set_thread_uid(Uid::from_raw(NOBODY)).context("become nobody")?;
        let listener = UnixListener::bind_addr(&address).context("listen")?;
        // SAFETY: no pointers; the listener keeps its descriptor open.
        let shortened = unsafe { libc::listen(listener.as_raw_fd(), 0) };
        ensure!(shortened == 0, "shorten the queue");
        Ok(listener)
    })??;
    let process = format!("(process {}, which is called \"", getpid().as_raw_nonzero());
    let user = format!(", of the user {NOBODY})");
    check(&mut second(&scene.host, &[])?, 1, &[&process, &user])?;
    // Whoever asked first waits in the queue for ever, and so it is full.
    check(&mut second(&scene.host, &[])?, 1, &["cannot be seen from here"])?;
    assert_eq!(attached::to_interfaces(&scene.host)?, []);
    drop(listener);
    Dtm::start(&scene.host, &[])?.stop()
}
