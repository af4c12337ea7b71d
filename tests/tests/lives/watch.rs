//! Scrapes without a pause beside a test: whatever happens, no series steps back and none is there twice.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use dtm_tests::{
    daemon::{Sample, Samples, get},
    scene::Scene,
};
use xtask::host::{Network, eventually};

/// Longer than any test: what ends it is that nobody watches any more.
const AT_MOST: Duration = Duration::from_mins(15);

/// A scraper of its own.
#[derive(Debug)]
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u32>>>,
}

/// What a series is, whatever its container is called at the moment.
type Identity = (String, BTreeMap<String, String>);

impl Watch {
    /// Begins to scrape the scene's dtm.
    pub(crate) fn start(scene: &Scene) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let (network, address) = (scene.host().network()?, scene.dtm()?.address());
        let told = Arc::clone(&over);
        let thread = thread::spawn(move || watch(&network, address, &told));
        Ok(Self {
            over,
            thread: Some(thread),
        })
    }

    /// Ends, and says what was wrong in any scrape since the start.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it runs")?;
        let scrapes = thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(scrapes > 10, "only {scrapes} scrapes were made");
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn watch(network: &Network, address: std::net::SocketAddr, over: &AtomicBool) -> Result<u32> {
    let (mut highest, mut scrapes) = (HashMap::new(), 0);
    eventually(AT_MOST, "the end of the test", || {
        let response = get(network, address, "/metrics", &[])?;
        if let Err(error) = judge(&Samples::parse(response.text()?)?, &mut highest) {
            return Err(error.context(format!("in scrape {scrapes}")));
        }
        scrapes += 1;
        Ok(over.load(Ordering::Relaxed).then_some(()))
    })?;
    Ok(scrapes)
}

/// A series that was away may come back, but not lower than it was.
fn judge(samples: &Samples, highest: &mut HashMap<Identity, f64>) -> Result<()> {
    let mut seen = HashMap::new();
    for sample in samples.iter().filter(|sample| is_counter(sample)) {
        let identity = identity(sample);
        if let Some(twin) = seen.insert(identity.clone(), sample) {
            anyhow::bail!("{twin:?} is there twice, also as {sample:?}");
        }
        let before = highest.entry(identity).or_insert(sample.value);
        ensure!(
            sample.value >= *before,
            "{sample:?} has stepped back from {before}"
        );
        *before = sample.value;
    }
    Ok(())
}

fn is_counter(sample: &Sample) -> bool {
    sample.name.starts_with("dtm_") && sample.name.ends_with("_total")
}

fn identity(sample: &Sample) -> Identity {
    let mut labels = sample.labels.clone();
    if labels.contains_key("container_id") {
        labels.remove("name");
    }
    (sample.name.clone(), labels)
}
