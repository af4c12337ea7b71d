//! Uplinks: what arrives at the host before its firewall sees any of it, at the interfaces that the operator names.
//!
//! A task of its own, which there is only where one is named. It looks at these interfaces alone, attaches to whatever has
//! such a name, again where it comes anew, and never to one where that would harm somebody ([`judging`]). What was counted
//! stays with the name.

mod judging;
mod starting;

use std::{collections::BTreeMap, os::fd::AsFd as _, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use dtm_common::views::{PROTOCOLS, Volume};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

pub use self::judging::Refusal;
pub(crate) use self::judging::judge;
use crate::{
    bpf::{Pins, Template, UplinkBanks, UplinkError, UplinkLink, UplinkName, XdpMode},
    net::{Link, LinkEvent, LinkWatch, Requests, dump},
};

/// How often everything is looked at without an event: another's program that made room, and one of dtm's that somebody took
/// off, tell nobody.
const LOOK: Duration = Duration::from_secs(30);

/// The `reason` of everything in `dtm_attach_errors_total` that uplinks add to it.
pub const REASONS: [&str; 4] = ["xdp", "xdp_occupied", "xdp_program", "xdp_refused"];

/// Counts at uplinks. [`Uplinks::run`] is its life.
pub struct Uplinks {
    template: Arc<Template>,
    /// A number for the program, see [`Kernel::program`](crate::bpf::Kernel::program).
    program: u64,
    /// Where links outlive this process.
    pins: Option<Pins>,
    docker_netns: PathBuf,
    watch: LinkWatch,
    requests: Requests,
    named: Vec<Uplink>,
    errors: BTreeMap<&'static str, u64>,
    reattached: u64,
    tell: watch::Sender<States>,
}

/// An interface that the operator has named.
struct Uplink {
    name: Arc<str>,
    slot: u32,
    /// The interface that has this name now.
    link: Option<Link>,
    /// The index of the one that `attached` was last known to be at.
    at: Option<u32>,
    attached: Option<UplinkLink>,
    /// What was last said of why nothing is attached.
    said: Option<String>,
}

/// How uplinks fare, as far as the counters do not say it.
#[derive(Clone, Debug, Default)]
struct States {
    /// With their slots, in the order in which they were named.
    uplinks: Vec<(Arc<str>, u32, Option<XdpMode>)>,
    errors: BTreeMap<&'static str, u64>,
    reattached: u64,
}

/// What a scrape reads of uplinks.
#[derive(Clone, Debug)]
pub struct UplinksView {
    banks: Arc<UplinkBanks>,
    states: watch::Receiver<States>,
}

/// Everything about uplinks at one moment.
#[derive(Clone, Debug, Default)]
pub struct UplinksSnapshot {
    /// In the order of their names.
    pub uplinks: Vec<UplinkSnapshot>,
    /// Attachments that failed, by reason; from 0.
    pub errors: BTreeMap<&'static str, u64>,
    /// Attachments that somebody removed and dtm made again.
    pub reattached: u64,
}

/// One uplink.
#[derive(Clone, Debug)]
pub struct UplinkSnapshot {
    /// The name of its interface.
    pub interface: Arc<str>,
    /// What has arrived, in the order of [`Protocol::ALL`](dtm_common::views::Protocol::ALL).
    pub protocols: [Volume; PROTOCOLS],
    /// How much of it asks for a TCP connection.
    pub syns: u64,
    /// How dtm is attached, if it is.
    pub mode: Option<&'static str>,
}

impl UplinksView {
    /// Reads everything once.
    pub fn read(&self) -> UplinksSnapshot {
        let states = self.states.borrow().clone();
        let mut uplinks: Vec<_> = states
            .uplinks
            .into_iter()
            .map(|(interface, slot, mode)| {
                let counted = self.banks.read(slot);
                UplinkSnapshot {
                    interface,
                    protocols: counted.protocols,
                    syns: counted.syns,
                    mode: mode.map(XdpMode::as_str),
                }
            })
            .collect();
        uplinks.sort_by(|one, other| one.interface.cmp(&other.interface));
        UplinksSnapshot {
            uplinks,
            errors: states.errors,
            reattached: states.reattached,
        }
    }
}

impl Uplinks {
    /// Counts until `cancel`, then leaves what is pinned and takes off the rest.
    ///
    /// # Errors
    ///
    /// Where the kernel's events cannot be read any more.
    pub async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Every branch's future is cancel safe. Each call below may wait for RTNL, or for a driver.
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                events = self.watch.next() => {
                    let events = events.context("read the kernel's link events")?;
                    tokio::task::block_in_place(|| self.on_events(events));
                }
                _tick = look.tick() => tokio::task::block_in_place(|| self.look_at_all()),
            }
        }
        if self.pins.is_some() {
            let attached = self.named.into_iter().filter_map(|uplink| uplink.attached);
            attached.for_each(UplinkLink::keep);
        }
        Ok(())
    }

    fn on_events(&mut self, events: Vec<LinkEvent>) {
        if events.contains(&LinkEvent::Overflow) {
            self.look_at_all();
            return;
        }
        for event in events {
            match event {
                LinkEvent::Changed(link) => self.on_link(&link, true),
                LinkEvent::Removed(link, _moved_to) => self.on_link(&link, false),
                _ => {}
            }
        }
    }

    fn on_link(&mut self, link: &Link, is_there: bool) {
        for number in 0..self.named.len() {
            let uplink = &mut self.named[number];
            let is_it = uplink
                .link
                .as_ref()
                .is_some_and(|known| known.ifindex == link.ifindex);
            let is_called_so = is_there && uplink.name == link.name;
            if is_it || is_called_so {
                uplink.link = is_called_so.then(|| link.clone());
                self.settle(number, false);
            }
        }
        self.tell();
    }

    /// Compares everything with what the kernel lists.
    fn look_at_all(&mut self) {
        match dump(&mut self.requests) {
            Ok(links) => {
                for uplink in &mut self.named {
                    uplink.link = links.iter().find(|link| link.name == uplink.name).cloned();
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "cannot list interfaces to find uplinks among them");
            }
        }
        for number in 0..self.named.len() {
            self.settle(number, true);
        }
        self.tell();
    }

    /// Attaches to an uplink, or takes off what is at one that is none any more. `thoroughly`: what nobody tells of included.
    fn settle(&mut self, number: usize, thoroughly: bool) {
        let uplink = &mut self.named[number];
        let judged = judge(uplink.link.as_ref(), &mut self.requests, &self.docker_netns);
        let wanted = judged.as_ref().ok().copied();
        let Some(ifindex) = wanted else {
            if let Some(attached) = uplink.attached.take() {
                tracing::info!(interface = &*uplink.name, "an uplink is counted no longer");
                drop(attached);
            }
            if let Err(refusal) = judged {
                if refusal != Refusal::Missing {
                    *self.errors.entry("xdp_refused").or_default() += 1;
                }
                uplink.say(&refusal);
            }
            return;
        };
        if let Some(attached) = &uplink.attached {
            let was_there = uplink.at == Some(ifindex);
            // A link holds on to its interface, whatever that is called and wherever it goes; asking waits for RTNL.
            if was_there && !thoroughly || attached.ifindex().is_ok_and(|found| found == Some(ifindex)) {
                uplink.at = Some(ifindex);
                return;
            }
            if was_there {
                tracing::warn!(
                    interface = &*uplink.name,
                    "the program at an uplink was taken off by somebody"
                );
                self.reattached += 1;
            }
            uplink.attached = None;
        }
        self.attach(number, ifindex);
    }

    fn attach(&mut self, number: usize, ifindex: u32) {
        let uplink = &mut self.named[number];
        let interface = &*uplink.name;
        let program = match self.template.uplink(uplink.slot) {
            Ok(program) => program,
            Err(error) => {
                *self.errors.entry("xdp_program").or_default() += 1;
                uplink.say(&format_args!("{error:#}"));
                return;
            }
        };
        let name = UplinkName {
            slot: uplink.slot,
            mode: XdpMode::Native,
            program: self.program,
        };
        match UplinkLink::attach(program.as_fd(), ifindex, name, self.pins.as_ref()) {
            Ok((attached, not_native)) => {
                let mode = attached.name().mode.as_str();
                if let Some(error) = not_native {
                    tracing::info!(interface, %error, "the driver of an uplink does not take the program as it is set up");
                }
                tracing::info!(interface, mode, "counting at an uplink");
                uplink.at = Some(ifindex);
                uplink.attached = Some(attached);
                uplink.said = None;
            }
            Err(error) => {
                *self.errors.entry(error.reason()).or_default() += 1;
                let error = match error {
                    UplinkError::Occupied => error.to_string(),
                    error => format!("{:#}", anyhow::Error::new(error)),
                };
                uplink.say(&error);
            }
        }
    }

    fn tell(&self) {
        let state = |uplink: &Uplink| {
            let mode = uplink.attached.as_ref().map(|attached| attached.name().mode);
            (Arc::clone(&uplink.name), uplink.slot, mode)
        };
        self.tell.send_replace(States {
            uplinks: self.named.iter().map(state).collect(),
            errors: self.errors.clone(),
            reattached: self.reattached,
        });
    }
}

impl Uplink {
    /// Says why nothing is counted, once until it is something else.
    fn say(&mut self, reason: &dyn std::fmt::Display) {
        let reason = reason.to_string();
        if self.said.as_ref() != Some(&reason) {
            let interface = &*self.name;
            tracing::warn!(interface, reason, "nothing is counted at an uplink");
            self.said = Some(reason);
        }
    }
}
