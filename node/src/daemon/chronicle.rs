//! Looks at the counters every two seconds: for the history, which is kept in a file, and for those who have the page open.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{HOURS_SHOWN, Parts};
use crate::door::pages;
use crate::ledger::history::{File, History, Series, Span, Sums};
use crate::ledger::status::{Kept, Traffic};
use crate::os::clock::Timestamp;
use crate::os::tasks;

/// Between two looks, and between two events for the page.
const EVERY: Duration = Duration::from_secs(2);

/// Looks between two writes: five minutes are what a power cut costs.
const WRITE_EVERY: u32 = 150;

/// The history of this node and its file.
pub(super) struct Chronicle {
    history: Mutex<History>,
    /// Nothing where it could not be opened: the history goes on in memory.
    file: Arc<Mutex<Option<File>>>,
}

impl Chronicle {
    /// Blocks.
    pub(super) fn open(path: &Path) -> Self {
        let opened = File::open(path).inspect_err(|error| {
            tracing::warn!(%error, file = %path.display(), "the history of traffic is not kept over a restart");
        });
        let (file, history) =
            opened.map_or_else(|_| (None, History::default()), |(file, history)| (Some(file), history));
        Self { history: Mutex::new(history), file: Arc::new(Mutex::new(file)) }
    }

    pub(super) fn with<T>(&self, work: impl FnOnce(&mut History) -> T) -> T {
        work(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Up to this moment.
    pub(super) fn kept(&self, now: Timestamp, traffic: &Traffic) -> Kept {
        self.record(now, traffic);
        self.with(|history| Kept { today: history.since(now.midnight(), now), total: history.total() })
    }

    pub(super) fn record(&self, now: Timestamp, traffic: &Traffic) {
        self.with(|history| history.record(now, Sums::from(traffic)));
    }

    pub(super) async fn write(&self) {
        let changes = self.with(History::take_changes);
        let file = self.file.clone();
        let write = move || match &mut *file.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(file) => file.write(changes),
            None => Ok(()),
        };
        if let Ok(Err(error)) = tasks::blocking("write the history", write).await {
            tracing::warn!(%error, "the history of traffic could not be written");
        }
    }
}

impl Parts {
    pub(super) fn own_series(&self, span: Span) -> Series {
        self.chronicle.with(|history| history.series(span, self.clock.now()))
    }

    pub(super) fn own_recent(&self) -> Series {
        self.chronicle.with(|history| history.recent(Span::Hour, self.clock.now()))
    }

    pub(super) fn own_hours(&self) -> Vec<(Timestamp, Sums)> {
        self.chronicle.with(|history| history.hours(self.clock.now(), HOURS_SHOWN))
    }
}

/// Until the node stops.
pub(super) async fn keep(parts: Arc<Parts>, mut stopping: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(EVERY);
    let mut looks = 0u32;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        parts.chronicle.record(parts.clock.now(), &parts.ledger.traffic());
        if parts.events.listeners() > 0 {
            parts.look_at_site().await;
            parts.events.tell(|| pages::snapshot(&*parts));
        }
        looks += 1;
        if looks.is_multiple_of(WRITE_EVERY) {
            parts.chronicle.write().await;
            parts.write_names().await;
        }
    }
}
