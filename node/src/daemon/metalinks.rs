//! Keeps the lists of mirrors of the repositories that have a metalink: fetched when the node starts and every hour, kept on
//! disk for a start without a way out. A list that cannot be had changes nothing; a new one is in use at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::{Mutex, mpsc, watch};

use crate::classify::Url;
use crate::fault::{Cause, Fault};
use crate::os::clock::{Clock, Timestamp};
use crate::os::tasks;
use crate::repos::metalink::Root;
use crate::repos::{Configured, metalink};
use crate::upstream::{Answer, Patience, Request, Upstreams};

/// Longest metalink in bytes; those of the large distributions have some 50 KiB.
const DOCUMENT_MAX: usize = 1024 * 1024;

const REFRESHED_EVERY: Duration = Duration::from_secs(3600);
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A client is given digests no older than this if upstream answers: what it fetches next is checked against them.
const DIGESTS_FRESH: Duration = Duration::from_secs(60);
const DIGESTS_WAIT: Duration = Duration::from_secs(5);

/// A node that knows no mirrors of a repository at all has clients wait so long for the list when it starts.
const FIRST_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Metalinks {
    repos: Arc<Configured>,
    upstreams: Upstreams,
    /// One file for each metalink with its mirrors, a line each.
    folder: PathBuf,
    /// Changes when all lists are to be fetched now.
    hurry: watch::Sender<()>,
    /// When the metalink of a repository was fetched or tried last; held while it is fetched.
    tried: BTreeMap<String, Mutex<Option<Timestamp>>>,
    clock: Clock,
}

impl Metalinks {
    pub(super) fn new(repos: Arc<Configured>, upstreams: Upstreams, folder: PathBuf, clock: Clock) -> Arc<Self> {
        let tried = repos.metalinks().map(|(name, _)| (name.to_owned(), Mutex::default())).collect();
        Arc::new(Self { repos, upstreams, folder, hurry: watch::Sender::default(), tried, clock })
    }

    /// Begins to keep the lists; returns when each repository has one, or has been tried.
    pub(super) async fn start(self: &Arc<Self>) {
        let (first, mut all_tried) = mpsc::channel::<()>(1);
        for (name, url) in self.repos.metalinks() {
            let known = self.load(url).await;
            let waited_for = known.is_empty().then(|| first.clone());
            self.repos.use_mirrors(name, known);
            tasks::spawn("metalink", self.clone().keep(name.to_owned(), url.clone(), waited_for));
        }
        drop(first);
        // Ends when all that hold the other side have let go of it.
        let _ = tokio::time::timeout(FIRST_WAIT, all_tried.recv()).await;
    }

    /// Fetches all lists now.
    pub(super) fn refresh(&self) {
        self.hurry.send_replace(());
    }

    async fn keep(self: Arc<Self>, name: String, url: Url, mut first: Option<mpsc::Sender<()>>) {
        let mut hurry = self.hurry.subscribe();
        let mut failures = 0;
        loop {
            failures = if self.renew(&name, &url, Duration::ZERO).await { 0 } else { failures + 1 };
            first.take();
            tokio::select! {
                () = tokio::time::sleep(pause(failures)) => {}
                _ = hurry.changed() => {}
            }
        }
    }

    /// Which versions of its root of trust the repository's metalink permits; asks for it anew unless that has just been done.
    pub(super) async fn root(&self, name: &str) -> Option<Arc<Root>> {
        let (_, url) = self.repos.metalinks().find(|(repo, _)| *repo == name)?;
        // When it takes longer, the last one has to do.
        let _ = tokio::time::timeout(DIGESTS_WAIT, self.renew(name, url, DIGESTS_FRESH)).await;
        self.repos.root(name)
    }

    /// Fetches a metalink that was not tried within this time; says whether one came or was not needed.
    async fn renew(&self, name: &str, url: &Url, unless_within: Duration) -> bool {
        let Some(tried) = self.tried.get(name) else { return false };
        let mut tried = tried.lock().await;
        if tried.is_some_and(|tried| self.clock.now().since(tried) < unless_within) {
            return true;
        }
        // Whoever waits for it may give up.
        *tried = Some(self.clock.now());
        match self.fetch(url).await {
            Ok((mirrors, root)) => {
                tracing::debug!(repo = name, mirrors = mirrors.len(), "the list of mirrors has come");
                self.save(url, &mirrors).await;
                self.repos.use_mirrors(name, mirrors);
                self.repos.use_root(name, root);
                true
            }
            Err(fault) => {
                tracing::warn!(repo = name, %url, %fault, "no list of mirrors; the last one stays in use");
                self.repos.lacks_mirrors(name, fault);
                false
            }
        }
    }

    async fn fetch(&self, url: &Url) -> Result<(Vec<Url>, Option<Root>), Fault> {
        let mut fields = HeaderMap::new();
        fields.insert(USER_AGENT, HeaderValue::from_static(concat!("imirror/", env!("CARGO_PKG_VERSION"))));
        fields
            .insert(ACCEPT, HeaderValue::from_static("application/metalink4+xml, application/metalink+xml, */*;q=0.5"));
        fields.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
        let patience =
            Patience { connect: Duration::from_secs(5), head: Duration::from_secs(25), stall: Duration::from_secs(5) };
        let request = Request { method: Method::GET, url: url.clone(), fields, body: None, patience };
        let answer = self.upstreams.fetch(request).await?;
        let host: Arc<str> = answer.url.authority().into();
        if answer.status != StatusCode::OK {
            return Err(Fault::new(Cause::Status { host, status: answer.status.as_u16() }));
        }
        let document = whole(answer).await?;
        let mirrors = metalink::mirrors(&document).map_err(|e| {
            let detail = format!("as a metalink it is of no use: {e}").into();
            Fault::new(Cause::Malformed { host, detail })
        })?;
        Ok((mirrors, metalink::root(&document)))
    }

    fn file(&self, url: &Url) -> PathBuf {
        // By URL, not by name: a name may get another metalink, whose mirrors have something else.
        self.folder.join(format!("{:?}", url.key_hash()))
    }

    /// What an earlier run has left.
    async fn load(&self, url: &Url) -> Vec<Url> {
        let file = self.file(url);
        let text = tasks::blocking("load mirrors", move || std::fs::read_to_string(file)).await;
        let Ok(Ok(text)) = text else { return Vec::new() };
        text.lines().filter_map(|line| Url::parse(line).ok()).take(metalink::MIRRORS_MAX).collect()
    }

    async fn save(&self, url: &Url, mirrors: &[Url]) {
        let (folder, file) = (self.folder.clone(), self.file(url));
        let text: String = mirrors.iter().map(|mirror| format!("{mirror}\n")).collect();
        let written = tasks::blocking("save mirrors", move || {
            std::fs::create_dir_all(&folder)?;
            let new = file.with_extension("new");
            std::fs::write(&new, text)?;
            std::fs::rename(new, file)
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!(%error, "the list of mirrors could not be kept for the next start");
        }
    }
}

/// How long until a list is fetched again, after so many failures in a row.
fn pause(failures: u32) -> Duration {
    match failures {
        0 => REFRESHED_EVERY,
        _ => TRIED_AGAIN_AFTER.saturating_mul(1 << (failures - 1).min(8)).min(REFRESHED_EVERY),
    }
}

async fn whole(mut answer: Answer) -> Result<BytesMut, Fault> {
    let mut document = BytesMut::new();
    while let Some(chunk) = answer.body.chunk().await? {
        if document.len() + chunk.len() > DOCUMENT_MAX {
            let detail = format!("a metalink of more than {DOCUMENT_MAX} bytes").into();
            return Err(Fault::new(Cause::Malformed { host: answer.url.authority().into(), detail }));
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_sooner_and_then_less_often() {
        let seconds: Vec<u64> = [0, 1, 2, 3, 6, 7, 8, 100, u32::MAX].map(|n| pause(n).as_secs()).to_vec();
        assert_eq!(seconds, [3600, 60, 120, 240, 1920, 3600, 3600, 3600, 3600]);
    }
}
