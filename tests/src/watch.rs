//! Scrapes without a pause beside a test: whatever happens, no series steps back and none is there twice.
//!
//! While dtm comes and goes, this holds for what outlives it: what containers and networks have moved and lost, and for how
//! long nobody watched.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xtask::host::{Network, eventually};

use crate::{
    daemon::{Response, Sample, Samples, get},
    scene::Scene,
};

/// Longer than any test: what ends it is that nobody watches any more.
const AT_MOST: Duration = Duration::from_mins(15);

/// What outlives dtm begins with one of these.
const LASTING: [&str; 3] = [
    "dtm_container_network_",
    "dtm_network_containers_",
    "dtm_unwatched_seconds",
];

/// A scraper of its own.
#[derive(Debug)]
pub struct Watch {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u32>>>,
}

/// What a series is, whatever its container is called at the moment.
type Identity = (String, BTreeMap<String, String>);

impl Watch {
    /// Begins to scrape the scene's dtm, which is there until the end.
    pub fn start(scene: &Scene) -> Result<Self> {
        Self::of(scene, scrape)
    }

    /// The same, while dtm comes and goes.
    pub fn through_restarts(scene: &Scene) -> Result<Self> {
        Self::of(scene, scrape_if_there)
    }

    fn of(scene: &Scene, scrape: Scrape) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let (network, address) = (scene.host().network()?, scene.dtm()?.address());
        let told = Arc::clone(&over);
        let thread = thread::spawn(move || watch(scrape, &network, address, &told));
        Ok(Self {
            over,
            thread: Some(thread),
        })
    }

    /// Ends, and says what was wrong in any scrape since the start.
    pub fn finish(mut self) -> Result<()> {
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

/// Gives the counters that are to be judged; none where nobody answers who should.
type Scrape = fn(&Network, SocketAddr) -> Result<Option<Vec<Sample>>>;

fn scrape(network: &Network, address: SocketAddr) -> Result<Option<Vec<Sample>>> {
    let response = get(network, address, "/metrics", &[])?;
    counters(&response).map(Some)
}

/// What was cut off is no answer, and neither is what a stopping dtm says.
fn scrape_if_there(network: &Network, address: SocketAddr) -> Result<Option<Vec<Sample>>> {
    let response = get(network, address, "/metrics", &[]).ok();
    let Some(response) = response.filter(|response| response.status == 200) else {
        return Ok(None);
    };
    let mut counters = counters(&response)?;
    counters.retain(|sample| LASTING.iter().any(|lasting| sample.name.starts_with(lasting)));
    Ok(Some(counters))
}

fn counters(response: &Response) -> Result<Vec<Sample>> {
    let samples = Samples::parse(response.text()?)?;
    let is_counter = |sample: &&Sample| sample.name.starts_with("dtm_") && sample.name.ends_with("_total");
    Ok(samples.iter().filter(is_counter).cloned().collect())
}

fn watch(scrape: Scrape, network: &Network, address: SocketAddr, over: &AtomicBool) -> Result<u32> {
    let (mut highest, mut scrapes) = (HashMap::new(), 0);
    eventually(AT_MOST, "the end of the test", || {
        if let Some(counters) = scrape(network, address)? {
            judge(&counters, &mut highest).with_context(|| format!("in scrape {scrapes}"))?;
            scrapes += 1;
        }
        Ok(over.load(Ordering::Relaxed).then_some(()))
    })?;
    Ok(scrapes)
}

/// A series that was away may come back, but not lower than it was.
fn judge(counters: &[Sample], highest: &mut HashMap<Identity, f64>) -> Result<()> {
    let mut seen = HashMap::new();
    for sample in counters {
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

fn identity(sample: &Sample) -> Identity {
    let mut labels = sample.labels.clone();
    if labels.contains_key("container_id") {
        labels.remove("name");
    }
    (sample.name.clone(), labels)
}
