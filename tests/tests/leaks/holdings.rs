//! All that dtm holds at one moment, and that it holds no more later.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use dtm_tests::{attached, objects::Objects, scene::Scene};
use xtask::host::eventually;

use crate::{
    maps::{self, Entries},
    process::{Kinds, Process},
    watched::{NEIGHBOUR, RESIDENT},
};

/// How long it may take until everything is given back: what lingers ([`LINGER`](crate::watched::LINGER)), what waits for a name
/// in vain (10 s), and threads without work (10 s).
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// By scope and protocol, and who sends to whom: such series of a container that lives on are born with their first packet.
const CELLS: &str = "dtm_container_traffic_";
const PAIRS: &str = "dtm_flow_";
/// The drops of a container that lives on: a reason's series is born with the first such drop.
const DROPPED: &str = "dtm_container_network_dropped_";

/// What dtm holds, in user space and in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holdings {
    descriptors: Kinds,
    /// Without the runtime's, see [`threads_end`].
    threads: Kinds,
    /// Programs, links and maps it has open.
    objects: Kinds,
    entries: Kinds,
    drops_of_the_dead: BTreeSet<u32>,
    /// At how many interfaces each program is, and how.
    attached: Kinds,
    /// Interfaces with the same program more than once, or with that of another dtm.
    astray: BTreeSet<String>,
    /// Every series, without its value.
    series: BTreeSet<String>,
}

impl Holdings {
    /// Looks once. None while dtm's own word on its maps differs from the kernel's, which is so while one of them
    /// changes.
    fn look(scene: &Scene) -> Result<Option<Self>> {
        let dtm = Process(scene.dtm()?.id());
        let scrape = scene.dtm()?.metrics(&[])?;
        let samples = scene.samples()?;
        let objects = Objects::of(scene.dtm()?.id())?;
        let Entries {
            in_use,
            drops_of_the_dead,
            drops,
        } = maps::entries(&objects)?;
        for (map, entries) in in_use.iter().chain([(&"DROPS".to_owned(), &drops)]) {
            let label = map.to_lowercase();
            let said = samples.find("dtm_bpf_map_entries", &[("map", &label)])?;
            if said.is_some_and(|said| said != *entries as u64) {
                return Ok(None);
            }
        }
        let series = scrape.text()?.lines().filter(|line| !line.starts_with('#'));
        let series =
            series.filter_map(|line| line.rsplit_once(' ').map(|(series, _value)| series.to_owned()));
        let (attached, astray) = attached_programs(scene, &objects)?;
        Ok(Some(Self {
            descriptors: dtm.descriptors()?,
            threads: own_threads(dtm)?,
            objects: objects.kinds(),
            entries: in_use,
            drops_of_the_dead,
            attached,
            astray,
            series: series.filter(|series| !is_lasting(series)).collect(),
        }))
    }

    /// What dtm holds once that does not change any more.
    pub(crate) fn at_rest(scene: &Scene) -> Result<Self> {
        let mut before = None;
        eventually(SETTLED_WITHIN, "what dtm holds does not change", || {
            let now = Self::look(scene)?;
            let rests = now.is_some() && now == before;
            before.clone_from(&now);
            Ok(now.filter(|_| rests))
        })
    }

    /// Waits until dtm holds this and nothing else again.
    ///
    /// # Errors
    ///
    /// With what is left over, and what is missing.
    pub(crate) fn are_all_again(&self, scene: &Scene) -> Result<()> {
        let mut last = None;
        let again = eventually(SETTLED_WITHIN, "dtm holds what it held before", || {
            let now = Self::look(scene)?;
            let all = now.as_ref() == Some(self);
            last = now.or(last.take());
            Ok(all.then_some(()))
        });
        again.with_context(|| match &last {
            Some(now) => self.difference(now),
            None => "dtm's word on its maps is not the kernel's".to_owned(),
        })
    }

    /// The parts that are not as they were.
    fn difference(&self, now: &Self) -> String {
        let Self {
            descriptors,
            threads,
            objects,
            entries,
            drops_of_the_dead,
            attached,
            astray,
            series,
        } = self;
        let kinds = [
            ("descriptors", descriptors, &now.descriptors),
            ("threads", threads, &now.threads),
            ("objects", objects, &now.objects),
            ("entries", entries, &now.entries),
            ("attached", attached, &now.attached),
        ];
        let mut said: Vec<_> = kinds
            .into_iter()
            .filter(|(_what, before, now)| before != now)
            .map(|(what, before, now)| format!("{what}: {before:?}, now {now:?}"))
            .collect();
        if now.drops_of_the_dead != *drops_of_the_dead {
            said.push(format!("drops of the dead: {:?}", now.drops_of_the_dead));
        }
        if now.astray != *astray {
            said.push(format!("astray: {:?}", now.astray));
        }
        let left: Vec<_> = now.series.difference(series).collect();
        let missing: Vec<_> = series.difference(&now.series).collect();
        if !left.is_empty() || !missing.is_empty() {
            said.push(format!("series left over: {left:?}, missing: {missing:?}"));
        }
        said.join("\n")
    }
}

fn is_lasting(series: &str) -> bool {
    let is_named = |name| {
        ["name", "source", "destination"]
            .iter()
            .any(|label| series.contains(&format!("{label}=\"{name}\"")))
    };
    // Who else is in a pair: only what is no container lasts as long.
    let is_pair = series.starts_with(PAIRS) && series.contains("=\"@");
    (series.starts_with(DROPPED) || series.starts_with(CELLS) || is_pair)
        && (is_named(RESIDENT) || is_named(NEIGHBOUR))
}

/// dtm's programs at the host's interfaces: how many of each, and those that an interface has twice or from another dtm.
fn attached_programs(scene: &Scene, objects: &Objects) -> Result<(Kinds, BTreeSet<String>)> {
    let (mut kinds, mut seen, mut astray) = (Kinds::new(), BTreeSet::new(), BTreeSet::new());
    for (interface, line) in attached::to_interfaces(scene.host())? {
        let words: Vec<_> = line.split_whitespace().collect();
        let program = words.iter().find(|word| word.starts_with("dtm_"));
        let program = program.with_context(|| format!("{line:?} names no program"))?;
        let how = if words[0] == "tcx" { "tcx" } else { "clsact" };
        *kinds.entry(format!("{how} {program}")).or_default() += 1;
        let is_new = seen.insert((interface.clone(), (*program).to_owned()));
        // A link's program is that of the link, which dtm has open; a filter outlives who made it.
        let id = words
            .windows(2)
            .find(|pair| pair[0] == "id")
            .map(|pair| pair[1].parse());
        let is_own = match id {
            Some(id) => objects.programs.contains(&id.context("a program's id")?),
            None => how == "tcx",
        };
        if !is_new || !is_own {
            astray.insert(format!("{interface}: {line}"));
        }
    }
    Ok((kinds, astray))
}

/// The runtime's threads: so many workers, and those for blocking work, which end ten seconds after their last. Each
/// scrape is such work.
const RUNTIME: &str = "tokio-rt-worker";
const WORKERS: usize = 2;

fn own_threads(dtm: Process) -> Result<Kinds> {
    let mut threads = dtm.threads()?;
    threads.remove(RUNTIME);
    Ok(threads)
}

/// Waits until no thread is left of all that was asked and done.
pub(crate) fn threads_end(dtm: Process) -> Result<()> {
    eventually(SETTLED_WITHIN, "the threads for blocking work have ended", || {
        Ok((dtm.threads()?.get(RUNTIME) == Some(&WORKERS)).then_some(()))
    })
}
