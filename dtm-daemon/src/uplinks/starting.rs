//! What uplinks begin with: what an earlier process has left at them, and who has which slot.

use std::{collections::HashMap, io, os::fd::AsFd as _, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use dtm_common::uplinks::UPLINKS_MAX;
use tokio::sync::watch;

use super::{REASONS, States, Uplink, Uplinks, UplinksView};
use crate::{
    bpf::{Former, Kept, Kernel, Pins, UplinkBanks, UplinkLink, UplinkName},
    net::{LinkSubscription, LinkWatch, Requests},
};

impl Uplinks {
    /// Takes over what an earlier process has left in `kept`, and gets ready to count at these interfaces; none where there
    /// are none. What was left at others is taken off.
    ///
    /// # Errors
    ///
    /// Where the kernel tells nothing of interfaces.
    pub fn start(
        kernel: &Kernel,
        kept: Option<&Kept>,
        no_pin: bool,
        names: &[String],
        docker_netns: PathBuf,
    ) -> anyhow::Result<Option<(Self, UplinksView)>> {
        let (banks, template, program) = (&kernel.uplinks, kernel.template(), kernel.program);
        let mut left = kept.map_or_else(HashMap::new, |kept| left(&kept.pins, banks, names));
        let unused = (0..UPLINKS_MAX).filter(|slot| !left.contains_key(slot));
        for slot in unused {
            let name = banks.name(slot);
            if name.is_none_or(|name| !names.contains(&name)) {
                banks.clear(slot);
            }
        }
        if let Some(kept) = kept {
            take_over_others(kept, banks, names);
        }
        if names.is_empty() {
            return Ok(None);
        }
        let pins = kept.map(|kept| kept.pins.clone()).filter(|_pins| !no_pin);
        let mut uplinks = Vec::new();
        for name in names {
            // There are as many as there may be names.
            let slot = banks.claim(name).context("every slot of uplinks is taken")?;
            let mut attached = left.remove(&slot);
            if let Some(link) = attached.as_mut().filter(|link| link.name().program != program) {
                let replaced = template
                    .uplink(slot)
                    .and_then(|new| Ok(link.replace(new.as_fd(), program, pins.as_ref())?));
                if let Err(error) = replaced {
                    let error = format_args!("{error:#}");
                    tracing::info!(
                        interface = name,
                        error,
                        "what an earlier dtm has left at an uplink is of no use"
                    );
                    attached = None;
                }
            }
            if let Some(link) = attached.as_mut().filter(|_link| pins.is_none()) {
                link.unpin();
            }
            uplinks.push(Uplink {
                name: name.as_str().into(),
                slot,
                link: None,
                at: None,
                attached,
                said: None,
            });
        }
        let states = States {
            errors: REASONS.map(|reason| (reason, 0)).into(),
            ..States::default()
        };
        let (tell, states_told) = watch::channel(states.clone());
        let requests = Requests::open().context("open a netlink socket")?;
        let own = requests.port().context("open a netlink socket")?;
        let watch = LinkSubscription::open(own).and_then(LinkWatch::new);
        let started = Self {
            template,
            program,
            pins,
            docker_netns,
            watch: watch.context("read the kernel's link events")?,
            requests,
            named: uplinks,
            errors: states.errors,
            reattached: 0,
            tell,
        };
        started.tell();
        let view = UplinksView {
            banks: Arc::clone(banks),
            states: states_told,
        };
        Ok(Some((started, view)))
    }
}

/// The links that go on, by their slots; the others are taken off.
fn left(pins: &Pins, banks: &UplinkBanks, names: &[String]) -> HashMap<u32, UplinkLink> {
    let mut left = HashMap::new();
    for (name, path) in pins.uplinks() {
        let is_wanted = banks
            .name(name.slot)
            .is_some_and(|uplink| names.contains(&uplink));
        if let Some(link) = opened(name, path)
            && is_wanted
        {
            // Of two, one was on its way out: dropping it takes it off.
            left.entry(name.slot).or_insert(link);
        }
    }
    left
}

fn opened(name: UplinkName, path: PathBuf) -> Option<UplinkLink> {
    let link = UplinkLink::open(name, path);
    link.inspect_err(|error| tracing::debug!(%error, "a link to an uplink is gone"))
        .ok()
}

/// Takes off what other runs have at uplinks, and goes on with what the newest of them has counted.
fn take_over_others(kept: &Kept, banks: &UplinkBanks, names: &[String]) {
    let former = kept.found.as_ref().and_then(|found| found.former.as_ref());
    let former = former.map(Former::pins);
    for pins in kept.obsolete.iter().chain(former) {
        for (name, path) in pins.uplinks() {
            drop(opened(name, path));
        }
        if former == Some(pins)
            && let Err(error) = add(pins, banks, names)
        {
            tracing::info!(%error, "what an earlier dtm has counted at uplinks cannot be gone on with");
        }
    }
}

fn add(pins: &Pins, banks: &UplinkBanks, names: &[String]) -> io::Result<()> {
    let counted = UplinkBanks::of(pins)?;
    for slot in 0..UPLINKS_MAX {
        let name = counted.name(slot).filter(|name| names.contains(name));
        if let Some(own) = name.and_then(|name| banks.claim(&name)) {
            let before = counted.read(slot);
            // Whoever is killed in between has lost it, which is better than to have it twice.
            counted.clear(slot);
            banks.add(own, &before);
        }
    }
    Ok(())
}
