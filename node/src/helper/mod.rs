//! The helper (R20–R22): has new versions of what people use before they ask, and what a list names, with all that it needs.
//!
//! It knows what repositories say because clients ask for their metadata through this node, and it fetches as a client would: what
//! it asks for is looked for in the site first, fetched once for all, and checked. Each node plans for itself; those that come to the
//! same plan share it out by home, and what one of them does not do the others do a little later.

mod import;
mod plan;
mod schedule;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

pub use import::Importing;
use plan::{Wanted, Why, Wishes};

use crate::classify::Url;
use crate::cluster::site::Site;
use crate::config;
use crate::flight::Pace;
use crate::journey::Journey;
use crate::ledger::status;
use crate::os::clock::{Clock, Timestamp};
use crate::os::{entropy, tasks};

/// Requests for a name, of those of the last weeks, from which on it is popular.
const POPULAR_FROM: f64 = 1.5;

/// Popular names that are kept in step.
const POPULAR_MAX: usize = 2000;

/// What is another node's to fetch is fetched here when that node has not done it for so long.
const GRACE: Duration = Duration::from_secs(60);

/// Between two looks at whether it has.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Lists come after their root, and many at once.
const GATHER: Duration = Duration::from_millis(500);

/// The site remembers so long what upstream has said of metadata.
const SITE_REMEMBERS: Duration = Duration::from_secs(600);

/// A part of the cache, in percent, that may be filled ahead.
const OF_CACHE: u64 = 25;

/// See the module head. Cheap to clone.
#[derive(Clone)]
pub struct Helper(Arc<Inner>);

struct Inner {
    config: config::Helper,
    journey: Journey,
    site: Site,
    clock: Clock,
    pace: Arc<Pace>,
    state: Mutex<State>,
    /// Somebody wants a round now.
    call: Notify,
}

#[derive(Default)]
struct State {
    doing: Doing,
    items: Vec<Item>,
    missing: Vec<String>,
    is_cut: bool,
    rounds: u64,
    /// Rounds that were called for and have not begun.
    called: bool,
    /// A round that was called for is under way, whatever the hour.
    is_urgent: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Doing {
    #[default]
    Nothing,
    /// Asks for new metadata.
    Looking,
    Planning,
    Fetching,
    /// For the window.
    Waiting,
}

/// A package of the plan.
struct Item {
    wanted: Wanted,
    phase: Phase,
    /// Since when it is known to be wanted.
    since: Timestamp,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Waiting,
    Fetching,
    Present,
    Failed(String),
}

impl Helper {
    pub fn new(config: config::Helper, journey: Journey, site: Site, clock: Clock) -> Self {
        let pace = Arc::new(Pace::new(config.rate_limit));
        Self(Arc::new(Inner { config, journey, site, clock, pace, state: Mutex::default(), call: Notify::new() }))
    }

    /// Works for as long as the node runs. Where it is not switched on it does nothing but what it is called for.
    pub async fn run(self) {
        let mut news = self.0.journey.generations().changes();
        let stagger = u64::from_le_bytes(entropy::random_bytes()[..8].try_into().unwrap_or_default());
        // What an earlier run has left undone.
        let mut looks = false;
        loop {
            let is_called = std::mem::take(&mut self.state().called);
            if is_called || self.0.config.enabled {
                self.round(looks || is_called, is_called).await;
            }
            // A round that was waiting for its window may have heard the call.
            if self.state().called {
                continue;
            }
            let until_look = schedule::until_look(self.0.config.interval, self.0.clock.now().0, stagger);
            news.mark_unchanged();
            tokio::select! {
                () = tokio::time::sleep(until_look), if self.0.config.enabled => looks = true,
                Ok(()) = news.changed(), if self.0.config.enabled => {
                    tokio::time::sleep(GATHER).await;
                    looks = false;
                }
                () = self.0.call.notified() => {}
            }
        }
    }

    /// A round is to begin now, whatever the hour; says how many will have ended with it.
    pub fn call(&self) -> u64 {
        let mut state = self.state();
        state.called = true;
        // One that waits for its window need not.
        state.is_urgent = true;
        self.0.call.notify_one();
        state.rounds + 1 + u64::from(state.doing != Doing::Nothing)
    }

    /// How far it has come.
    pub fn status(&self) -> status::Helper {
        let state = self.state();
        let present = || state.items.iter().filter(|item| item.phase == Phase::Present);
        let fetching = state.items.iter().find(|item| item.phase == Phase::Fetching);
        let url = fetching.map(|item| self.0.journey.name_of(&item.wanted.url).to_string());
        let flights = self.0.journey.flights().status();
        let current = flights.into_iter().find(|flight| Some(&flight.url) == url.as_ref());
        let bytes_wanted = state.items.iter().map(|item| item.wanted.size).sum();
        let bytes_present = present().map(|item| item.wanted.size).sum();
        let still = |current: &status::Flight| u64::saturating_sub(bytes_wanted, bytes_present + current.bytes);
        status::Helper {
            enabled: self.0.config.enabled,
            doing: self.in_words(state.doing),
            wanted: state.items.len() as u64,
            present: present().count() as u64,
            bytes_wanted,
            bytes_present,
            failed: state.items.iter().filter(|item| matches!(item.phase, Phase::Failed(_))).count() as u64,
            seconds_left: current.as_ref().filter(|it| it.rate > 0).map(|current| still(current) / current.rate),
            current,
            missing: state.missing.clone(),
            is_cut: state.is_cut,
            rounds: state.rounds,
        }
    }

    /// All that it wants to have, what counts most first.
    pub fn list(&self) -> Vec<status::Prefetch> {
        let prefetch = |item: &Item| status::Prefetch {
            name: item.wanted.name.clone(),
            version: item.wanted.version.clone(),
            bytes: item.wanted.size,
            url: item.wanted.url.to_string(),
            why: match item.wanted.why {
                Why::Popular(_) => "popular",
                Why::Listed => "listed",
                Why::Needed => "needed",
            }
            .into(),
            state: match item.phase {
                Phase::Waiting => "waiting",
                Phase::Fetching => "fetching",
                Phase::Present => "present",
                Phase::Failed(_) => "failed",
            }
            .into(),
            error: match &item.phase {
                Phase::Failed(why) => Some(why.clone()),
                _ => None,
            },
        };
        self.state().items.iter().map(prefetch).collect()
    }

    fn in_words(&self, doing: Doing) -> String {
        let until_open = || self.until_open(self.0.clock.now()).as_secs().div_ceil(60);
        match doing {
            Doing::Nothing if self.0.config.enabled => "idle".into(),
            Doing::Nothing => "off".into(),
            Doing::Looking => "looking for new metadata".into(),
            Doing::Planning => "planning".into(),
            Doing::Fetching => "fetching".into(),
            Doing::Waiting => format!("waiting {} min for its window", until_open()),
        }
    }

    fn until_open(&self, now: Timestamp) -> Duration {
        schedule::until_open(self.0.config.window, now.since(now.midnight()).as_secs())
    }

    /// Waits until the window is open, unless somebody is in a hurry; what is under way stands still meanwhile.
    async fn window(&self) {
        loop {
            let until_open = self.until_open(self.0.clock.now());
            if until_open.is_zero() || self.state().is_urgent {
                self.0.pace.open(true);
                return;
            }
            self.0.pace.open(false);
            let doing = std::mem::replace(&mut self.state().doing, Doing::Waiting);
            tokio::select! {
                // Clocks are set.
                () = tokio::time::sleep(until_open.min(Duration::from_secs(60))) => {}
                () = self.0.call.notified() => {}
            }
            self.state().doing = doing;
        }
    }

    /// A look at the metadata, if it is time for that, a plan, and the downloads that follow.
    async fn round(&self, looks: bool, is_urgent: bool) {
        self.state().is_urgent = is_urgent;
        self.window().await;
        if looks {
            self.look().await;
        }
        loop {
            let mut news = self.0.journey.generations().changes();
            self.plan().await;
            // The window may close meanwhile.
            let closes = async {
                loop {
                    self.window().await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            tokio::select! {
                () = self.fetch(is_urgent) => break,
                // What is wanted may have changed; a download that is under way goes on and is joined.
                Ok(()) = news.changed() => tokio::time::sleep(GATHER).await,
                () = closes => {}
            }
        }
        let mut state = self.state();
        (state.doing, state.is_urgent) = (Doing::Nothing, false);
        state.rounds += 1;
    }

    /// Metadata that clients use is kept fresh.
    async fn look(&self) {
        self.state().doing = Doing::Looking;
        let (now, age) = (self.0.clock.now(), (self.0.config.interval / 2).min(SITE_REMEMBERS));
        let journey = &self.0.journey;
        for outlook in journey.generations().outlooks().iter().filter(|outlook| plan::is_in_use(outlook, now)) {
            if let Err(fault) = journey.refresh(&outlook.url, age, &self.0.pace).await {
                tracing::info!(url = %outlook.url, %fault, "the helper cannot tell whether there is anything new");
            }
        }
        for outlook in journey.generations().outlooks().iter().filter(|outlook| plan::is_in_use(outlook, now)) {
            for list in &outlook.lacking {
                if let Err(fault) = journey.refresh_list(list, &self.0.pace).await {
                    tracing::info!(url = %list.url, %fault, "the helper cannot get a list of packages");
                }
            }
        }
    }

    async fn plan(&self) {
        self.state().doing = Doing::Planning;
        let now = self.0.clock.now();
        let popular: Vec<(String, f64)> = match self.0.config.popular {
            true => self.0.site.popular(POPULAR_MAX).into_iter().map(|it| (it.name, it.demand)).collect(),
            false => Vec::new(),
        };
        let popular: Vec<_> = popular.into_iter().filter(|(_, demand)| *demand >= POPULAR_FROM).collect();
        let (outlooks, listed) = (self.0.journey.generations().outlooks(), self.0.config.prepopulate.clone());
        let bytes_max = self.0.journey.store().usage().limit_bytes / 100 * OF_CACHE;
        let made = tasks::blocking("plan", move || {
            plan::plan(&outlooks, Wishes { popular: &popular, listed: &listed, bytes_max }, now)
        });
        let Ok(made) = made.await.inspect_err(|error| tracing::error!(%error, "the helper cannot plan")) else {
            return;
        };
        let since: BTreeMap<Url, Timestamp> =
            self.state().items.iter().map(|item| (item.wanted.url.clone(), item.since)).collect();
        let mut items = Vec::with_capacity(made.wanted.len());
        for wanted in made.wanted {
            let is_present = self.0.journey.is_in_site(&wanted.url, wanted.promise.as_ref()).await;
            let phase = if is_present { Phase::Present } else { Phase::Waiting };
            items.push(Item { since: since.get(&wanted.url).copied().unwrap_or(now), wanted, phase });
        }
        let mut state = self.state();
        (state.items, state.missing, state.is_cut) = (items, made.missing, made.is_cut);
    }

    /// Until all that is wanted has been had or tried: what is this node's to fetch first, then what others have not fetched.
    async fn fetch(&self, is_urgent: bool) {
        self.state().doing = Doing::Fetching;
        for is_own in [true, false] {
            for index in 0.. {
                let (wanted, since) = match self.state().items.get(index) {
                    Some(item) if item.phase == Phase::Waiting => (item.wanted.clone(), item.since),
                    Some(_) => continue,
                    None => break,
                };
                let journey = &self.0.journey;
                if is_own && !is_urgent && !journey.is_home_of(&wanted.url, wanted.promise.as_ref()) {
                    continue;
                }
                if !is_own && !is_urgent && self.comes_elsewhere(&wanted, since).await {
                    self.set_phase(index, Phase::Present);
                    continue;
                }
                self.set_phase(index, Phase::Fetching);
                let fetched = journey.fetch_ahead(&wanted.url, wanted.promise.as_ref(), &self.0.pace).await;
                self.set_phase(index, match fetched {
                    Ok(()) => Phase::Present,
                    Err(fault) => {
                        tracing::info!(url = %wanted.url, %fault, "the helper cannot have it; it is tried again in the next round");
                        Phase::Failed(fault.to_string())
                    }
                });
            }
        }
    }

    /// Gives the node whose business it is time to fetch something; says whether the site has it then.
    async fn comes_elsewhere(&self, wanted: &Wanted, since: Timestamp) -> bool {
        loop {
            if self.0.journey.is_in_site(&wanted.url, wanted.promise.as_ref()).await {
                return true;
            }
            if self.0.clock.now().since(since) >= GRACE {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn set_phase(&self, index: usize, phase: Phase) {
        if let Some(item) = self.state().items.get_mut(index) {
            item.phase = phase;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
