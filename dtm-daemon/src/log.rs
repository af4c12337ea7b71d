//! The log: what is said, in which form, and how often the same is said.
//!
//! What goes wrong for one interface can go wrong for thousands, again and again. Each line of the source may speak so
//! often a minute; how often it had to be silent is said in its stead. Metrics count everything.

use std::{
    collections::HashMap,
    fmt::Debug,
    io::{self, IsTerminal as _},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    fmt::layer,
    layer::{Context, Filter, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use crate::config::{Config, LogFormat};

/// How often one line of the source may speak in a [`PERIOD`]: enough to see which interfaces or containers it is about.
const LINES: u32 = 20;
const PERIOD: Duration = Duration::from_mins(1);

/// Starts the log as configured. The limit it is under is to be [`told`](Limit::tell).
pub fn start(config: &Config) -> anyhow::Result<Limit> {
    let filter = EnvFilter::builder()
        .parse(&config.log_filter)
        .context("read the log filter")?;
    let lines = layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let lines = match config.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let limit = Limit::default();
    tracing_subscriber::registry()
        .with(lines.with_filter(limit.clone()))
        .with(filter)
        .try_init()
        .context("start the log")?;
    Ok(limit)
}

/// How often what was said, and what was left unsaid. As many entries as the source has lines that log.
#[derive(Clone, Debug, Default)]
pub struct Limit(Arc<Mutex<HashMap<Identifier, Speaker>>>);

/// A line of the source.
#[derive(Debug)]
struct Speaker {
    /// The beginning of its period.
    since: Instant,
    lines: u32,
    left_out: u64,
    /// What it says, without what it says it of.
    message: String,
}

impl Limit {
    /// Says for ever, once in a period, what was left out.
    pub async fn tell(self) {
        let mut period = tokio::time::interval(PERIOD);
        loop {
            period.tick().await;
            self.tell_once();
        }
    }

    /// Says what was left out since the last time.
    pub fn tell_once(&self) {
        for (times, message) in self.take_left_out() {
            tracing::warn!(times, line = message, "left out what was said too often");
        }
    }

    fn take_left_out(&self) -> Vec<(u64, String)> {
        let mut speakers = self.speakers();
        let silent = speakers.values_mut().filter(|speaker| speaker.left_out > 0);
        silent
            .map(|speaker| (mem::take(&mut speaker.left_out), speaker.message.clone()))
            .collect()
    }

    fn speakers(&self) -> MutexGuard<'_, HashMap<Identifier, Speaker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admits(&self, event: &Event<'_>, now: Instant) -> bool {
        let mut speakers = self.speakers();
        let speaker = speakers
            .entry(event.metadata().callsite())
            .or_insert_with(|| Speaker {
                since: now,
                lines: 0,
                left_out: 0,
                message: message(event),
            });
        if now.duration_since(speaker.since) >= PERIOD {
            (speaker.since, speaker.lines) = (now, 0);
        }
        let admitted = speaker.lines < LINES;
        if admitted {
            speaker.lines += 1;
        } else {
            speaker.left_out += 1;
        }
        admitted
    }
}

impl<S: Subscriber> Filter<S> for Limit {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        // Whoever asks for details wants all of them.
        *event.metadata().level() > Level::INFO || self.admits(event, Instant::now())
    }
}

/// An event's own text.
fn message(event: &Event<'_>) -> String {
    struct Message(String);
    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }
    let mut message = Message(String::new());
    event.record(&mut message);
    message.0
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::{Layer, fmt::MakeWriter};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl Lines {
        fn with(&self, text: &str) -> usize {
            let bytes = self.0.lock().unwrap().clone();
            let written = String::from_utf8(bytes).unwrap();
            written.lines().filter(|line| line.contains(text)).count()
        }
    }

    #[test]
    fn a_line_that_speaks_too_often_is_counted_instead_and_others_go_on() {
        let (written, limit) = (Lines::default(), Limit::default());
        let lines = layer().with_writer(written.clone()).with_ansi(false);
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(limit.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..1_000 {
                tracing::warn!(number, "refused");
                tracing::debug!(number, "details");
            }
            tracing::warn!("another");
            limit.tell_once();
            limit.tell_once();
        });
        assert_eq!(written.with("refused number="), LINES as usize);
        assert_eq!(written.with("details"), 1_000, "these were asked for");
        assert_eq!(written.with("another"), 1);
        let told = format!("left out what was said too often times={}", 1_000 - LINES);
        assert_eq!(written.with(&told), 1, "{told}");
        assert_eq!(written.with("line=\"refused\""), 1);
    }

    /// Asks for one line more than there may be, at once and a period later, and notes how many there may be.
    struct Asking {
        limit: Limit,
        start: Instant,
        admitted: Arc<Mutex<Vec<usize>>>,
    }

    impl<S: Subscriber> Layer<S> for Asking {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            for now in [self.start, self.start + PERIOD] {
                let admitted = (0..=LINES).filter(|_| self.limit.admits(event, now));
                self.admitted.lock().unwrap().push(admitted.count());
            }
        }
    }

    #[test]
    fn a_new_period_is_a_new_chance() {
        let (limit, admitted) = (Limit::default(), Arc::default());
        let asking = Asking {
            limit: limit.clone(),
            start: Instant::now(),
            admitted: Arc::clone(&admitted),
        };
        let subscriber = tracing_subscriber::registry().with(asking);
        tracing::subscriber::with_default(subscriber, || tracing::info!("again"));
        assert_eq!(*admitted.lock().unwrap(), [LINES as usize; 2]);
        assert_eq!(limit.take_left_out(), [(2, "again".to_owned())]);
    }
}
