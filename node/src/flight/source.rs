//! Where the bytes of a download come from: a server of the world, or a peer.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ETAG, LAST_MODIFIED};
use imirror_protocol::{NodeId, Source as Holder};

use super::{Flight, Flights};
use crate::cluster::site::{Claimed, Grant};
use crate::cluster::source::{PeerSource, Told};
use crate::cluster::transfer::Known;
use crate::fault::Fault;
use crate::ledger::{Hierarchy, Ledger};
use crate::store::{GroupList, ObjectId};
use crate::upstream::Answer;

/// A peer whose first words are waited for longer than this does not answer.
pub(super) const FIRST_BYTE: Duration = Duration::from_millis(500);

/// Peers to which the site sends a download in turn.
const FOLLOWED_MAX: usize = 4;

/// Peers that one download tries.
const PEERS_MAX: usize = 8;

/// See the module head.
pub enum Source {
    Upstream(Box<Answer>),
    Peer(Box<PeerSource>),
}

impl Source {
    /// The next bytes; `None` at a proper end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        match self {
            Self::Upstream(answer) => answer.body.chunk().await,
            Self::Peer(peer) => peer.chunk().await,
        }
    }

    /// Whom a fault is about.
    pub(super) fn host(&self) -> String {
        match self {
            Self::Upstream(answer) => answer.url.host().to_owned(),
            Self::Peer(peer) => peer.name().to_owned(),
        }
    }

    /// In the words of `status` and the access log.
    pub(super) fn via(&self) -> String {
        match self {
            Self::Upstream(answer) => answer.via.to_string(),
            Self::Peer(peer) => Hierarchy::Sibling(peer.name()).to_string(),
        }
    }

    pub(super) fn count(&self, ledger: &Ledger, bytes: u64) {
        match self {
            Self::Upstream(_) => ledger.received_from_upstream(bytes),
            Self::Peer(_) => ledger.received_from_peers(bytes),
        }
    }
}

/// What a download and the site know of each other.
#[derive(Default)]
pub(super) struct Ties {
    /// The permission to fetch it from upstream, which also tells the others that the download goes on.
    grant: Option<Grant>,
    /// What the content is, where a peer has said so.
    object: Option<ObjectId>,
    /// How to check parts of it from other peers.
    list: Option<Arc<GroupList>>,
    /// From whom it comes, and came in vain.
    peers: BTreeSet<NodeId>,
    last: Option<NodeId>,
}

impl Ties {
    pub(super) fn begin(source: &Source, grant: Option<Grant>, object: Option<ObjectId>) -> Self {
        let mut ties = Self { grant, object, ..Self::default() };
        ties.use_source(source);
        ties
    }

    fn use_source(&mut self, source: &Source) {
        if let Source::Peer(peer) = source {
            self.peers.insert(peer.peer());
            self.last = Some(peer.peer());
            self.list = peer.list().cloned().or(self.list.take());
        }
    }

    /// What a peer's answer has to be about.
    fn known(&self) -> Known {
        match (&self.list, self.object) {
            (Some(list), _) => Known::List(list.clone()),
            (None, Some(object)) => Known::Object(object),
            (None, None) => Known::Nothing,
        }
    }
}

impl Flight {
    fn ties(&self) -> MutexGuard<'_, Ties> {
        self.ties.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of the site that it comes from, if any.
    pub fn peer(&self) -> Option<NodeId> {
        let ties = self.ties();
        ties.last.filter(|_| ties.grant.is_none())
    }

    /// Will the store have it?
    pub fn is_kept(&self) -> bool {
        self.keep
    }

    /// Does the peer that it comes from have all of it?
    pub fn is_whole_at_peer(&self) -> bool {
        self.ties().object.is_some()
    }

    /// What the content has to be, if a peer has said so.
    pub(super) fn expected(&self) -> Option<ObjectId> {
        self.ties().object
    }

    /// Others who wait for this download learn that it goes on.
    pub(super) fn progressed(&self) {
        if let Some(grant) = &mut self.ties().grant {
            grant.progressed();
        }
    }

    /// The site learns that the download is over.
    pub(super) fn release(&self, stored: bool) {
        // Not while the lock is held: the site has one of its own.
        let grant = self.ties().grant.take();
        if let Some(grant) = grant.filter(|_| stored) {
            grant.stored();
        }
    }

    /// The missing bytes from a peer that has them, or is getting them. `None`: from upstream, with the permission of the site.
    pub(super) async fn ask_peers(&self, flights: &Flights, gap: &Range<u64>) -> Option<PeerSource> {
        let (site, key) = (&flights.0.site, self.key());
        if !self.plan().class.is_ours() {
            return None;
        }
        for source in site.plan(&key).sources {
            if let Some(found) = self.try_peer(flights, source.peer, gap, source.hedge_after).await {
                return Some(found);
            }
        }
        for _ in 0..FOLLOWED_MAX {
            let broken = {
                let ties = self.ties();
                if ties.grant.is_some() {
                    return None;
                }
                ties.last
            };
            match site.claim(&key, broken).await {
                Claimed::Granted(grant) => {
                    self.ties().grant = Some(grant);
                    return None;
                }
                Claimed::Follow(peer) => {
                    // What came from it before may have been cut off for a moment only.
                    self.ties().peers.remove(&peer);
                    if let Some(found) = self.try_peer(flights, peer, gap, FIRST_BYTE).await {
                        return Some(found);
                    }
                }
            }
        }
        None
    }

    async fn try_peer(
        &self,
        flights: &Flights,
        peer: NodeId,
        gap: &Range<u64>,
        patience: Duration,
    ) -> Option<PeerSource> {
        let known = {
            let mut ties = self.ties();
            if ties.peers.len() >= PEERS_MAX || !ties.peers.insert(peer) {
                return None;
            }
            ties.last = Some(peer);
            ties.known()
        };
        let patience = patience.max(FIRST_BYTE);
        let (source, told) = flights.0.site.get(peer, &self.key(), known, gap.clone(), patience).await?;
        if !self.is_same_version(&told) {
            return None;
        }
        let mut ties = self.ties();
        ties.object = ties.object.or(told.object);
        ties.list = source.list().cloned().or(ties.list.take());
        Some(source)
    }

    /// Two versions are never spliced (R8d): it is the same object, or has the same validators and length.
    fn is_same_version(&self, told: &Told) -> bool {
        match (self.expected(), told.object) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => {
                let (ours, theirs) = (&self.plan().head.fields, &told.described.head.fields);
                let same = |name| ours.get(&name).is_some() && ours.get(&name) == theirs.get(&name);
                let digest = self.plan().digest.is_some() && self.plan().digest == told.described.digest;
                (digest || same(ETAG) || same(LAST_MODIFIED)) && self.growing.total() == told.total
            }
        }
    }

    /// Who has all of it: the peer that sends it already, and whom else to ask, best first.
    pub(super) fn holders(&self, flights: &Flights, first: NodeId) -> Vec<Holder> {
        let mut holders = flights.0.site.plan(&self.key()).sources;
        let known = holders.iter().find(|holder| holder.peer == first).copied();
        let first = known.unwrap_or(Holder { peer: first, hedge_after: FIRST_BYTE / 2 });
        // A copy is in nobody's hurry.
        holders.retain(|holder| holder.peer != first.peer && !self.is_copy);
        let mut ties = self.ties();
        ties.peers.remove(&first.peer);
        holders.retain(|holder| !ties.peers.contains(&holder.peer));
        holders.truncate(PEERS_MAX.saturating_sub(ties.peers.len() + 1));
        holders.insert(0, first);
        holders
    }

    /// A peer is about to be asked for a part; what its answer has to be about.
    pub(super) fn use_peer(&self, peer: NodeId) -> Known {
        let mut ties = self.ties();
        ties.last = Some(peer);
        ties.known()
    }

    /// A peer is not asked again for this download.
    pub(super) fn came_in_vain(&self, peer: NodeId) {
        self.ties().peers.insert(peer);
    }

    /// A part far ahead, from the peer that the download comes from. `Err`: it does not come from a peer.
    pub(super) async fn aside_from_peer(&self, flights: &Flights, gap: &Range<u64>) -> Result<Option<PeerSource>, ()> {
        let (peer, known) = {
            let ties = self.ties();
            match (ties.last, &ties.grant) {
                (Some(peer), None) => (peer, ties.known()),
                _ => return Err(()),
            }
        };
        let got = flights.0.site.get(peer, &self.key(), known, gap.clone(), FIRST_BYTE).await;
        Ok(got.filter(|(_, told)| self.is_same_version(told)).map(|(source, _)| source))
    }
}
