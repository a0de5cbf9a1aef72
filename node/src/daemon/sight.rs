//! The whole site as this node shows it: what the others tell of themselves, asked for while somebody looks.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use imirror_protocol::NodeId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Parts;
use crate::door::pages::Operations;
use crate::ledger::history::{Series, Span, Sums};
use crate::ledger::status::Report;
use crate::os::clock::Timestamp;

/// How long a page waits for the others.
const PATIENCE: Duration = Duration::from_millis(400);

/// What was told so lately is not asked for again.
const FRESH: Duration = Duration::from_millis(1500);

/// What a node has told is not shown any more after this.
const OLD: Duration = Duration::from_secs(10);

/// The question about all but the whole history; that is asked for by the name of its span.
const NOW: &str = "now";

/// What a node tells another.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Told {
    report: Report,
    /// Traffic by the hour, the latest first.
    hours: Vec<(Timestamp, Sums)>,
    /// The end of the last hour's rates.
    recent: Option<Series>,
}

/// What the others have told.
#[derive(Default)]
pub(super) struct Sight {
    told: Mutex<BTreeMap<NodeId, (Instant, Told)>>,
    /// Held by the one who asks; when that was done last.
    looking: tokio::sync::Mutex<Option<Instant>>,
}

impl Sight {
    /// What a node has told lately.
    pub(super) fn report(&self, node: NodeId) -> Option<Report> {
        self.open().get(&node).map(|(_, told)| told.report.clone())
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<NodeId, (Instant, Told)>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    /// Asks all others what they have to tell, unless that has just been done. Takes no longer than [`PATIENCE`].
    pub(super) async fn look_at_site(&self) {
        let mut looked = self.sight.looking.lock().await;
        if looked.is_some_and(|looked| looked.elapsed() < FRESH) {
            return;
        }
        let told: Vec<(NodeId, Told)> = self.ask_all(NOW).await;
        *looked = Some(Instant::now());
        let mut all = self.sight.open();
        all.retain(|_, (at, _)| at.elapsed() < OLD);
        all.extend(told.into_iter().map(|(node, told)| (node, (Instant::now(), told))));
    }

    /// Rates of traffic of the whole site up to now.
    pub(super) async fn series_of_site(&self, span: Span) -> Series {
        let mut all = self.own_series(span);
        let others: Vec<(NodeId, Series)> = self.ask_all(span.name()).await;
        others.iter().for_each(|(_, series)| all.add(series));
        all
    }

    /// The end of the last hour's rates of the whole site.
    pub(super) fn recent_of_site(&self) -> Series {
        let mut all = self.own_recent();
        self.sight.open().values().filter_map(|(_, told)| told.recent.as_ref()).for_each(|series| all.add(series));
        all
    }

    /// Traffic of the whole site by the hour, the latest first.
    pub(super) fn hours_of_site(&self) -> Vec<(Timestamp, Sums)> {
        let mut all: BTreeMap<Timestamp, Sums> = self.own_hours().into_iter().collect();
        for (at, sums) in self.sight.open().values().flat_map(|(_, told)| &told.hours) {
            let sum = all.entry(*at).or_default();
            *sum = sum.plus(sums);
        }
        all.into_iter().rev().take(super::HOURS_SHOWN).collect()
    }

    /// What this node tells another.
    pub(super) fn tell(&self, question: &str) -> Option<String> {
        if let Some(span) = Span::named(question) {
            return serde_json::to_string(&self.own_series(span)).ok();
        }
        let told = || Told {
            report: Report::of(self.status(), self.health()),
            hours: self.own_hours(),
            recent: Some(self.own_recent()),
        };
        (question == NOW).then(told).and_then(|told| serde_json::to_string(&told).ok())
    }

    /// The answers of all others that can be understood.
    async fn ask_all<T: for<'a> Deserialize<'a>>(&self, question: &str) -> Vec<(NodeId, T)> {
        let members = self.site.status().members.into_iter().filter(|member| member.connected);
        let asked = members.map(|member| async move {
            let answer = self.site.ask_report(member.node, question, PATIENCE).await?;
            Some((member.node, serde_json::from_slice(&answer).ok()?))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}
