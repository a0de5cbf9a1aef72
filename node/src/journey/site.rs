//! What the site has or knows, before upstream is asked (R7, R8c): a peer that has it, one that is getting it, the permission to
//! fetch it for all, and the duty to ask for all whether it is current.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName};
use imirror_protocol::{NodeId, Version};

use super::ask::{Question, Resolution};
use super::freshness::{Decision, Demand};
use super::switch::NextRoot;
use super::{Asked, Journey, Reply};
use crate::classify::{Class, Classified, KeyHash, Url, classify};
use crate::cluster::site::{Asking, Claimed, Confirmation, Grant};
use crate::cluster::source::{PeerSource, Told};
use crate::cluster::transfer::Known;
use crate::config::Window;
use crate::fault::Fault;
use crate::flight::{self, Departure, Expectation, Flight};
use crate::ledger::Outcome;
use crate::repos::{Named, root};
use crate::store::Plan;

/// Peers to which the site sends this node in turn, when one after the other breaks off.
const FOLLOWED_MAX: usize = 4;

/// For the first words of a peer that the site has named; while it waits itself it says so.
pub(super) const FIRST_BYTE: Duration = Duration::from_millis(500);

/// What this node is to do for all.
#[derive(Default)]
pub(super) struct Permission {
    /// To fetch.
    pub(super) grant: Option<Grant>,
    /// To ask whether it is current.
    asking: Option<Asking>,
    /// Peers wait until the download has begun.
    _expectation: Option<Expectation>,
}

impl Permission {
    /// The others learn what upstream has said.
    pub(super) fn learned(self, question: &Question, resolution: &Resolution) {
        let version = match (resolution, &question.cached) {
            (Resolution::Confirmed, Some(entry)) => version(&entry.head.fields),
            (Resolution::Flight(flight), _) => version(&flight.plan().head.fields),
            (Resolution::Replaced(entry), _) => version(&entry.head.fields),
            _ => None,
        };
        if let (Some(asking), Some(version)) = (self.asking, version) {
            asking.learned(version);
        }
    }
}

impl Journey {
    /// What came of asking the site; else what this node may and has to do itself. What a peer had, and has to be confirmed, is
    /// then in the store and in the question.
    pub(super) async fn ask_site(&self, question: &mut Question) -> Result<Resolution, Permission> {
        if question.cached.is_none() {
            let flight = self.fetch_from_site(question).await?;
            // A package does not change under its name, and what is just being fetched is current.
            let is_current = question.classified.class != Class::MutableMetadata && !question.insist;
            if is_current || !flight.is_whole_at_peer() {
                return Ok(Resolution::Flight(flight));
            }
            flight.landed().await;
            let Some(entry) = flight.entry() else { return Err(Permission::default()) };
            let demand = Demand { revalidate: question.insist, ..Demand::default() };
            let decision = self.decide(&question.classified, Some(&entry), demand);
            question.cached = Some(entry);
            if decision == Decision::Serve {
                return Ok(Resolution::Confirmed);
            }
        }
        self.confirm_with_site(question).await
    }

    /// From a peer that has it or is getting it; or the permission to fetch it from upstream.
    async fn fetch_from_site(&self, question: &Question) -> Result<Arc<Flight>, Permission> {
        let (site, key) = (&self.0.site, &question.key);
        let mut broken = None;
        for name in question.names() {
            let plan = site.plan(&name);
            for source in &plan.sources {
                let patience = source.hedge_after;
                if let Some(flight) = self.fetch_from(question, &name, source.peer, plan.keep, patience).await {
                    return Ok(flight);
                }
                if name == *key {
                    broken = Some(source.peer);
                }
            }
        }
        let expectation = self.0.flights.announce(*key);
        for _ in 0..FOLLOWED_MAX {
            match site.claim(key, broken).await {
                Claimed::Granted(grant) => {
                    return Err(Permission {
                        grant: Some(grant),
                        _expectation: Some(expectation),
                        ..Permission::default()
                    });
                }
                Claimed::Follow(peer) => {
                    if let Some(flight) = self.fetch_from(question, key, peer, true, FIRST_BYTE).await {
                        return Ok(flight);
                    }
                    broken = Some(peer);
                }
            }
        }
        Err(Permission::default())
    }

    /// Has anybody in the site asked upstream about what is stored here, or is anybody asking?
    async fn confirm_with_site(&self, question: &Question) -> Result<Resolution, Permission> {
        let Some(entry) = question.cached.as_ref().filter(|_| !self.0.site.is_alone()) else {
            return Err(Permission::default());
        };
        let freshness = &self.0.options.freshness;
        let window = match question.classified.class {
            Class::MutableMetadata => freshness.metadata,
            _ => freshness.package,
        };
        let age = match (&question.ahead, window) {
            (Some(ahead), _) => ahead.age,
            (None, Window::For(window)) if !question.insist => window,
            _ => Duration::ZERO,
        };
        match self.0.site.confirm(&question.key, age).await {
            Confirmation::Ask(asking) => Err(Permission { asking: Some(asking), ..Permission::default() }),
            Confirmation::Known { version: theirs, age, .. } if Some(theirs) == version(&entry.head.fields) => {
                self.0.store.confirm_as_of(entry, self.0.clock.now().before(age));
                Ok(Resolution::Confirmed)
            }
            Confirmation::Known { by, .. } => self.news_from(question, by).await.ok_or_else(Permission::default),
        }
    }

    /// The version that a peer has got from upstream, and this node has not.
    async fn news_from(&self, question: &Question, peer: NodeId) -> Option<Resolution> {
        let (source, told) = self.get_from(question, &question.key, peer, FIRST_BYTE).await?;
        if self.has_to_wait(question).await {
            return Some(self.switch(question, NextRoot::of_peer(source, told, self.0.clock.now())).await);
        }
        self.depart(question, source, told, true, false).await.map(Resolution::Flight)
    }

    /// The answer to a client that wants nothing fetched from upstream: what is on its way here, or what a peer has or is getting.
    pub(super) async fn only_from_site(
        &self,
        asked: &Asked,
        classified: &Classified,
        flight: Option<Arc<Flight>>,
    ) -> Result<Reply, Fault> {
        let question = Question::about(asked, classified);
        let flight = match flight {
            Some(flight) => Some((flight, Outcome::Collapsed)),
            None => self.peers_have(&question).await.map(|flight| (flight, Outcome::PeerHit)),
        };
        Ok(match flight {
            Some((flight, outcome)) => self.flying_reply(asked, &flight, outcome),
            None => self.not_cached(asked),
        })
    }

    /// A download from a peer that has it, or is getting it, already.
    async fn peers_have(&self, question: &Question) -> Option<Arc<Flight>> {
        // What has to be signed comes from nobody who has not been asked for the signature.
        if self.keyring(&question.url).is_some() {
            return None;
        }
        for name in question.names() {
            let plan = self.0.site.plan(&name);
            for source in &plan.sources {
                let got = self.fetch_from(question, &name, source.peer, plan.keep, source.hedge_after).await;
                // Somebody else may have been quicker.
                if let Some(flight) = got.or_else(|| self.0.flights.join(&question.key)) {
                    return Some(flight);
                }
            }
        }
        None
    }

    /// Could a request for this be answered without upstream: from the store, a download in progress, or a peer that says that it has
    /// it? Peers are not asked: what they have is known but for one of some thousands.
    pub async fn has(&self, key: &Url) -> bool {
        let classified = classify(key);
        if !classified.class.is_ours() {
            return self.has_shared(key).await;
        }
        let classified = self.promised(key, classified, None).await;
        if let Some(entry) = self.found(key, &classified).await
            && self.is_trusted(key, &entry).await
        {
            return true;
        }
        let (by_content, by_url) = (classified.key(key), key.key_hash());
        let keys = [by_content, by_url];
        let may_come_from_peers = self.keyring(key).is_none();
        keys.iter().any(|key| self.0.flights.has(key))
            || may_come_from_peers && keys.iter().any(|key| !self.0.site.plan(key).sources.is_empty())
    }

    /// Reads what a key names from a peer into the store; says whether it is there now. Upstream is not asked.
    pub async fn copy(&self, key: KeyHash, from: NodeId) -> bool {
        if self.0.store.lookup(key).await.is_ok_and(|entry| entry.is_some()) {
            return true;
        }
        let range = 0..u64::MAX;
        let Some((mut source, told)) = self.0.site.get(from, &key, Known::Nothing, range, FIRST_BYTE).await else {
            return false;
        };
        source.limit(self.0.copies.clone());
        let url = told.described.url.clone();
        if self.is_forgotten(&url, key, &url, told.confirmed_age) {
            return false;
        }
        let Named { sources, .. } = self.0.options.repos.resolve(&url);
        let classified = classify(&url);
        let question = Question { key, ..Question::new(Named { key: url, sources }, classified) };
        match self.depart(&question, source, told, true, true).await {
            Some(flight) => {
                flight.landed().await;
                flight.entry().is_some()
            }
            None => false,
        }
    }

    /// A download from a peer, if it has what is asked for, under this name, or is getting it.
    async fn fetch_from(
        &self,
        question: &Question,
        name: &KeyHash,
        peer: NodeId,
        keep: bool,
        patience: Duration,
    ) -> Option<Arc<Flight>> {
        let (source, told) = self.get_from(question, name, peer, patience).await?;
        self.depart(question, source, told, keep, false).await
    }

    async fn get_from(
        &self,
        question: &Question,
        name: &KeyHash,
        peer: NodeId,
        patience: Duration,
    ) -> Option<(PeerSource, Told)> {
        let got = self.0.site.get(peer, name, Known::Nothing, 0..u64::MAX, patience.max(FIRST_BYTE)).await;
        got.filter(|(_, told)| self.will_do(question, name, told))
    }

    async fn depart(
        &self,
        question: &Question,
        source: PeerSource,
        told: Told,
        keep: bool,
        is_copy: bool,
    ) -> Option<Arc<Flight>> {
        let class = question.classified.class;
        let now = self.0.clock.now();
        let plan = Plan {
            url: question.url.clone(),
            key: question.key,
            class,
            head: told.described.head,
            total: told.total,
            digest: question.classified.digest.clone().or(told.described.digest),
            confirmed_at: Some(now.before(told.confirmed_age)),
        };
        let source = flight::Source::Peer(Box::new(source));
        let departure = Departure {
            object: told.object,
            // Metadata is small, and asked for by everybody.
            keep: keep || class != Class::Package,
            is_copy,
            // Who has read a root may ask in the same moment for what it names.
            hold_back: root::names_others(&question.url),
            landing: Some(self.landing()),
            pace: question.ahead.as_ref().map(|ahead| ahead.pace.clone()),
            ..Departure::new(plan, source, self.in_order(&question.sources), self.request_fields(question))
        };
        match self.0.flights.start(departure).await {
            Ok(flight) => Some(flight),
            Err((fault, _)) => {
                tracing::info!(url = %question.url, %fault, "what a peer has cannot be passed on");
                None
            }
        }
    }
}

/// A name for what upstream has, that all nodes give it alike; `None` where upstream has no validators.
fn version(fields: &HeaderMap) -> Option<Version> {
    let value = |name: HeaderName| fields.get(name).map_or(&b""[..], |value| value.as_bytes());
    let (tag, date) = (value(ETAG), value(LAST_MODIFIED));
    if tag.is_empty() && date.is_empty() {
        return None;
    }
    let mut name = [0; 16];
    name.copy_from_slice(&blake3::hash(&[tag, b"\n", date].concat()).as_bytes()[..16]);
    Some(Version(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_by_its_validators() {
        let of = |fields: &[(&str, &str)]| {
            let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            version(&fields.collect::<HeaderMap>())
        };
        assert_eq!(of(&[("content-length", "5")]), None);
        let (tag, date) = (("etag", "\"a\""), ("last-modified", "Mon, 02 Jan 2023 03:04:05 GMT"));
        assert_eq!(of(&[tag, ("content-length", "5")]), of(&[tag]));
        let all = [of(&[tag]), of(&[date]), of(&[tag, date]), of(&[("etag", "\"b\"")])];
        assert!(all.iter().enumerate().all(|(i, a)| a.is_some() && all[..i].iter().all(|b| a != b)));
    }
}
