//! Containers that are born and end beside each other.

use std::panic;

use anyhow::Result;

use crate::scene::{IMAGE, Scene};

/// So many lanes beside each other, and so many containers in each, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    /// How many lanes.
    pub count: u64,
    /// How many containers each has.
    pub lives: u64,
}

impl Lanes {
    /// How many containers there are in all.
    pub const fn total(self) -> u64 {
        self.count * self.lives
    }

    /// Runs `command` in all of them, on this network, and returns the names of who lived: every other lane leaves its
    /// containers behind.
    pub fn run(self, scene: &Scene, network: &str, command: &[&str]) -> Result<Vec<String>> {
        let name = |lane: u64, number: u64| format!("short{lane}-{number}");
        let live = |lane: u64, number: u64| {
            let name = name(lane, number);
            let run = ["run", "--name", &name, "--network", network];
            let remove = ["--rm"].into_iter().filter(|_| lane.is_multiple_of(2));
            let run = run.into_iter().chain(remove).chain([IMAGE]);
            scene.engine.docker(run.chain(command.iter().copied())).map(drop)
        };
        std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..self.count)
                .map(|lane| {
                    let live = &live;
                    scope.spawn(move || (0..self.lives).try_for_each(|number| live(lane, number)))
                })
                .collect();
            lanes
                .into_iter()
                .try_for_each(|lane| lane.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
        })?;
        let all = (0..self.count).flat_map(|lane| (0..self.lives).map(move |number| name(lane, number)));
        Ok(all.collect())
    }
}
