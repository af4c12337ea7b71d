//! Scrapes that come at the same time share one pass over the maps and one text.
//!
//! They are answered in turns, one after the other: whoever comes during a turn shares the next one, whose numbers are
//! read after that. So any number of scrapes costs no more than one core, and holds one text at a time. A client takes
//! its copy at its own pace and is in nobody's way.

use std::{fmt, io::Write as _, sync::Arc};

use anyhow::Context as _;
use axum::body::Bytes;
use flate2::{Compression, write::GzEncoder};
use tokio::sync::{mpsc, oneshot};

use super::{negotiation::Encoding, readings::Readings};
use crate::{
    config::Config,
    metrics::{self, Format},
    tracker::{Snapshot, TrackerHandle, TrackerStopped},
};

/// Scrapes that may wait for their turn; further ones wait to be let in.
const WAITING: usize = 256;

/// What a scrape asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) format: Format,
    pub(super) encoding: Encoding,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum ScrapeError {
    #[error(transparent)]
    Stopped(#[from] TrackerStopped),
    #[error("cannot encode the metrics, see dtm's log")]
    Encoding,
}

type Answer = Result<Bytes, ScrapeError>;

struct Request {
    wanted: Wanted,
    reply: oneshot::Sender<Answer>,
}

/// A handle to the task that answers scrapes. It ends with the last handle.
#[derive(Clone)]
pub(super) struct Scrapes {
    requests: mpsc::Sender<Request>,
}

impl fmt::Debug for Scrapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrapes").finish_non_exhaustive()
    }
}

impl Scrapes {
    /// Starts the task. What it reads is added to `readings`.
    pub(super) fn start(tracker: TrackerHandle, config: Arc<Config>, readings: Readings) -> Self {
        let (requests, queue) = mpsc::channel(WAITING);
        tokio::spawn(answer(queue, tracker, config, readings));
        Self { requests }
    }

    /// Everything as of now or later, in the form that is wanted.
    pub(super) async fn scrape(&self, wanted: Wanted) -> Answer {
        let (reply, answer) = oneshot::channel();
        let request = Request { wanted, reply };
        // The task ends before its handles only where it panicked.
        self.requests
            .send(request)
            .await
            .map_err(|_ended| ScrapeError::Encoding)?;
        answer.await.map_err(|_ended| ScrapeError::Encoding)?
    }
}

async fn answer(
    mut queue: mpsc::Receiver<Request>,
    tracker: TrackerHandle,
    config: Arc<Config>,
    readings: Readings,
) {
    let mut turn = Vec::new();
    while queue.recv_many(&mut turn, WAITING).await > 0 {
        // Some may have left while they waited.
        turn.retain(|request| !request.reply.is_closed());
        if turn.is_empty() {
            continue;
        }
        let answers = answers(&turn, &tracker, &config, &readings).await;
        for (request, answer) in turn.drain(..).zip(answers) {
            // A client that went away does not want its answer.
            drop(request.reply.send(answer));
        }
    }
}

/// The answers to the requests of one turn, in their order.
async fn answers(
    turn: &[Request],
    tracker: &TrackerHandle,
    config: &Arc<Config>,
    readings: &Readings,
) -> Vec<Answer> {
    let snapshot = match tracker.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(stopped) => return vec![Err(stopped.into()); turn.len()],
    };
    // Kept for the API's rates; a scrape shows none.
    readings.add(&snapshot);
    let wanted: Vec<Wanted> = turn.iter().map(|request| request.wanted).collect();
    let config = Arc::clone(config);
    // A thousand containers take milliseconds, in which this thread would serve nobody else.
    let encoded = tokio::task::spawn_blocking(move || encode(&snapshot, &config, &wanted)).await;
    match encoded.context("encode the metrics").flatten() {
        Ok(bodies) => bodies.into_iter().map(Ok).collect(),
        Err(error) => {
            tracing::error!(error = format_args!("{error:#}"), "cannot answer a scrape");
            vec![Err(ScrapeError::Encoding); turn.len()]
        }
    }
}

/// Each body that is wanted; those that are wanted alike are one and the same.
fn encode(snapshot: &Arc<Snapshot>, config: &Arc<Config>, wanted: &[Wanted]) -> anyhow::Result<Vec<Bytes>> {
    let mut encoded: Vec<(Wanted, Bytes)> = Vec::new();
    let mut bodies = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        bodies.push(body(snapshot, config, *wanted, &mut encoded)?);
    }
    Ok(bodies)
}

fn body(
    snapshot: &Arc<Snapshot>,
    config: &Arc<Config>,
    wanted: Wanted,
    encoded: &mut Vec<(Wanted, Bytes)>,
) -> anyhow::Result<Bytes> {
    if let Some((_wanted, body)) = encoded.iter().find(|(known, _body)| *known == wanted) {
        return Ok(body.clone());
    }
    let body = match wanted.encoding {
        Encoding::Identity => {
            let text = metrics::encode(Arc::clone(snapshot), Arc::clone(config), wanted.format)
                .context("encode the metrics")?;
            Bytes::from(text)
        }
        Encoding::Gzip => {
            let plain = Wanted {
                encoding: Encoding::Identity,
                ..wanted
            };
            let text = body(snapshot, config, plain, encoded)?;
            compress(&text).context("compress the metrics")?.into()
        }
    };
    encoded.push((wanted, body.clone()));
    Ok(body)
}

fn compress(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    gzip.write_all(text)?;
    gzip.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::fixture;

    #[tokio::test]
    async fn who_waits_together_gets_one_text_and_who_comes_later_another() {
        let tracker = TrackerHandle::answering(fixture::snapshot(), true);
        let scrapes = Scrapes::start(tracker, fixture::config(&[]), Readings::default());
        let plain = Wanted {
            format: Format::OpenMetrics,
            encoding: Encoding::Identity,
        };
        // On a runtime of one thread all of them are in the queue before the task gets its turn.
        let (one, other, text) = tokio::join!(
            scrapes.scrape(plain),
            scrapes.scrape(plain),
            scrapes.scrape(Wanted {
                format: Format::Text,
                ..plain
            }),
        );
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(one.as_ptr(), other.as_ptr(), "the same bytes in memory");
        assert_ne!(one, text.unwrap());
        let later = scrapes.scrape(plain).await.unwrap();
        assert_ne!(one.as_ptr(), later.as_ptr());
    }

    #[tokio::test]
    async fn a_client_that_leaves_while_it_waits_spoils_nothing() {
        let tracker = TrackerHandle::answering(fixture::snapshot(), true);
        let scrapes = Scrapes::start(tracker, fixture::config(&[]), Readings::default());
        let gzip = Wanted {
            format: Format::Text,
            encoding: Encoding::Gzip,
        };
        let leaving = scrapes.clone();
        let left = tokio::spawn(async move { leaving.scrape(gzip).await });
        tokio::task::yield_now().await;
        left.abort();
        assert!(!scrapes.scrape(gzip).await.unwrap().is_empty());
    }
}
