//! What is done before anybody asks (R20–R22): metadata is kept fresh, and packages are fetched at the pace of what nobody waits for.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use super::ask::{Ahead, Question, Resolution};
use super::{Journey, freshness};
use crate::classify::{Classified, KeyHash, Url, classify};
use crate::fault::{Cause, Fault};
use crate::flight::Pace;
use crate::os::tasks;
use crate::repos::{Generations, Listed, Named, Promise};
use crate::store::{Entry, Plan};

/// Bytes of an imported file that are in memory at the same time.
const IMPORT_PIECE: usize = 1024 * 1024;

impl Journey {
    pub fn generations(&self) -> &Arc<Generations> {
        &self.0.options.generations
    }

    /// Has this node, or another of the site, what a repository names under this URL?
    pub async fn is_in_site(&self, url: &Url, promise: Option<&Promise>) -> bool {
        let (key, classified) = self.meant(url, promise);
        self.found(&key, &classified).await.is_some() || self.0.site.copies_elsewhere(&classified.key(&key)) > 0
    }

    /// Has this node what a repository names under this URL?
    pub async fn is_here(&self, url: &Url, promise: &Promise) -> bool {
        let (key, classified) = self.meant(url, Some(promise));
        self.found(&key, &classified).await.is_some()
    }

    /// What a URL is called here.
    pub fn name_of(&self, url: &Url) -> Url {
        self.0.options.repos.resolve(url).key
    }

    /// Is it this node that is to fetch it, if several want to?
    pub fn is_home_of(&self, url: &Url, promise: Option<&Promise>) -> bool {
        let (key, classified) = self.meant(url, promise);
        self.0.site.is_alone() || self.0.site.is_home_of(&classified.key(&key))
    }

    /// Looks whether there is a newer version of a root, unless the site has looked within `age`, and brings in what it names as far as it
    /// is used.
    ///
    /// # Errors
    /// Upstream does not answer, or not with a root; what there is stays in use.
    pub async fn refresh(&self, root: &Url, age: Duration, pace: &Arc<Pace>) -> Result<(), Fault> {
        let (key, classified) = self.meant(root, None);
        let cached = self.found(&key, &classified).await;
        let question = self.ahead(root, classified, age, pace);
        // Not with the clients' questions: one of them wants to know how it is now.
        match self.inquire(Question { cached, ..question }).await {
            Resolution::Failed(fault) | Resolution::Stale(fault) => return Err(fault),
            Resolution::Flight(flight) => {
                flight.landed().await;
                if let Some(entry) = flight.entry()
                    && let Some(reading) = self.generations().arrived(&key, entry.object.0, None)
                {
                    self.read(&entry, reading).await;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Brings a list that a root names.
    ///
    /// # Errors
    /// As of [`Self::fetch_ahead`].
    pub async fn refresh_list(&self, list: &Listed, pace: &Arc<Pace>) -> Result<(), Fault> {
        let (key, classified) = self.meant(&list.url, Some(&list.promise));
        // That another node has it is of no use: this one is to read it.
        if !self.is_here(&list.url, &list.promise).await {
            self.fetch(&list.url, Some(&list.promise), pace).await?;
        }
        if let Some(entry) = self.found(&key, &classified).await
            && let Some(reading) = self.generations().arrived(&key, entry.object.0, entry.digest.as_ref())
        {
            self.read(&entry, reading).await;
        }
        Ok(())
    }

    /// Sees to it that the site has what a repository names under this URL.
    ///
    /// # Errors
    /// Nobody has it, or it is something else than what was promised, or it cannot be stored.
    pub async fn fetch_ahead(&self, url: &Url, promise: Option<&Promise>, pace: &Arc<Pace>) -> Result<(), Fault> {
        match self.is_in_site(url, promise).await {
            true => Ok(()),
            false => self.fetch(url, promise, pace).await,
        }
    }

    async fn fetch(&self, url: &Url, promise: Option<&Promise>, pace: &Arc<Pace>) -> Result<(), Fault> {
        let (_, classified) = self.meant(url, promise);
        let mut question = self.ahead(url, classified, Duration::ZERO, pace);
        if promise.is_some() {
            question.sources = self.sources(&question.url, question.sources);
        }
        match self.ask(question).await.0 {
            Resolution::Flight(flight) => {
                flight.landed().await;
                flight.entry().map(|_| ()).ok_or_else(|| Fault::internal("the download broke off"))
            }
            Resolution::Failed(fault) | Resolution::Stale(fault) => Err(fault),
            Resolution::Small(answer) => {
                Err(Fault::new(Cause::Status { host: url.authority().into(), status: answer.status.as_u16() }))
            }
            Resolution::Unshared(_) => Err(Fault::internal("upstream's answer is not for all")),
            Resolution::Confirmed | Resolution::Landed | Resolution::Older | Resolution::Replaced(_) => Ok(()),
        }
    }

    /// Stores a file that somebody has brought, under the URL by which a repository names it, if it is what is promised. Blocks the calling
    /// task, no thread, for as long as that takes.
    ///
    /// # Errors
    /// It is something else, or it cannot be read or stored.
    pub async fn import(&self, url: &Url, promise: &Promise, file: impl Read + Send + 'static) -> Result<(), Fault> {
        let (key, classified) = self.meant(url, Some(promise));
        let plan = Plan {
            // A download of the same may be under way.
            key: KeyHash::of(format!("import {key}").as_bytes()),
            url: key.clone(),
            class: classified.class,
            head: freshness::stored_head(&http::HeaderMap::new(), self.0.clock.now().to_system_time()),
            total: Some(promise.size),
            digest: Some(promise.digest.clone()),
            confirmed_at: None,
        };
        let entry = self.store_as(plan, file).await?;
        let linked = self.0.store.link(&entry, key.key_hash(), key).await;
        let _ = self.0.store.remove(entry.key).await;
        let linked = linked.ok_or_else(|| Fault::internal("what was imported went away in the meantime"))?;
        self.0.store.pair(&linked).await;
        Ok(())
    }

    /// Stores what a file has, if it is what the plan says.
    ///
    /// # Errors
    /// It is something else, or it cannot be read or stored.
    pub(super) async fn store_as(&self, plan: Plan, mut file: impl Read + Send + 'static) -> Result<Arc<Entry>, Fault> {
        let store = self.0.store.clone();
        let stored = tasks::blocking("import", move || {
            let growing = store.begin(plan)?;
            let stored = (|| {
                let mut piece = vec![0; IMPORT_PIECE];
                let mut at = 0;
                loop {
                    let read = file.read(&mut piece).map_err(|error| Fault::disk("the file", &error))?;
                    if read == 0 || at >= growing.plan().total.unwrap_or(0) {
                        break;
                    }
                    growing.write_at(at, &piece[..read])?;
                    at += read as u64;
                }
                growing.hash_available()?;
                growing.seal(at)?;
                growing.publish()
            })();
            stored.inspect_err(|_| growing.discard())
        });
        stored.await.unwrap_or_else(|panic| Err(Fault::internal(panic.to_string())))
    }

    /// What a URL is called here, and what is meant by it.
    fn meant(&self, url: &Url, promise: Option<&Promise>) -> (Url, Classified) {
        let Named { key, .. } = self.0.options.repos.resolve(url);
        let mut classified = classify(&key);
        if let Some(promise) = promise {
            classified.digest = Some(promise.digest.clone());
            classified.size = Some(promise.size);
        }
        (key, classified)
    }

    fn ahead(&self, url: &Url, classified: Classified, age: Duration, pace: &Arc<Pace>) -> Question {
        let ahead = Some(Ahead { age, pace: pace.clone() });
        Question { ahead, ..Question::new(self.0.options.repos.resolve(url), classified) }
    }
}
