//! What the peers hold, as this node knows it: one table of fingerprints for each, kept up by pulling from its owner.
//!
//! A mirror is a hint: the owner's answer to a request is the truth. Only the owner is asked, one question at a time for each peer
//! and few at once for all. A node that has restarted keeps its old table in use until the new one is complete.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use crate::fingerprints::{Geometry, Page, Table};
use crate::identity::{Incarnation, NodeId};
use crate::message::{Audit, Delta, Message, PageAnswer};
use crate::outbox::Outbox;
use crate::output::Why;
use crate::random::Random;
use crate::schedule::Schedule;
use crate::time::Instant;

/// After this long without an answer the question is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two pulls from one peer, so that a busy one is asked for many changes at once.
const PAUSE: Duration = Duration::from_millis(100);
/// Where there was no memory for a table it is looked for again after this.
const CRAMPED: Duration = Duration::from_secs(5);
/// Questions open at once.
const OPEN_MAX: usize = 8;
/// How often a peer's pages are compared with its own sums.
const AUDIT_EVERY: Duration = Duration::from_secs(600);

/// The inventories of all peers.
#[derive(Clone, Debug)]
pub(crate) struct Mirrors {
    mirrors: BTreeMap<NodeId, Mirror>,
    /// Bytes that all tables together may take.
    bytes_max: usize,
    /// When each may be asked the next question; who has waited for longest comes first.
    waiting: Schedule<NodeId>,
    /// The questions that are open, and until when an answer is expected.
    open: BTreeMap<NodeId, (Question, Instant)>,
}

#[derive(Clone, Debug)]
struct Mirror {
    table: Table,
    /// What the table is a copy of; the epoch is zero while nothing has been copied.
    epoch: Incarnation,
    sequence: u64,
    /// What the owner has, by its newest head.
    head: (Incarnation, u64, u64),
    /// A table being filled page by page, to replace `table` when complete.
    fresh: Option<Fresh>,
    /// Pages to be fetched again because their sums differ.
    damaged: Vec<u16>,
    /// A page fetched again and the sequence it was of: changes up to that one are already in it.
    repaired: BTreeMap<usize, u64>,
    not_before: Instant,
    audit_at: Instant,
}

#[derive(Clone, Debug)]
struct Fresh {
    table: Table,
    epoch: Incarnation,
    next: u16,
    /// The sequence that each page was of.
    sequences: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Pull,
    Page(u16),
    Audit,
}

impl Mirrors {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { mirrors: BTreeMap::new(), bytes_max, waiting: Schedule::default(), open: BTreeMap::new() }
    }

    /// Takes note of what a live peer's newest head says.
    pub(crate) fn announced(&mut self, now: Instant, peer: NodeId, head: (Incarnation, u64, u64), random: &mut Random) {
        let audit_at = now + random.jitter(AUDIT_EVERY);
        self.mirrors.entry(peer).or_insert_with(|| Mirror::new(now, audit_at)).head = head;
        self.schedule(peer);
    }

    /// Forgets a peer that is gone.
    pub(crate) fn forget(&mut self, peer: NodeId) {
        self.mirrors.remove(&peer);
        self.open.remove(&peer);
        self.schedule(peer);
    }

    /// A peer can be asked from now on.
    pub(crate) fn reachable(&mut self, peer: NodeId) {
        self.schedule(peer);
    }

    /// An open question to a peer whose connection broke will not be answered.
    pub(crate) fn disconnected(&mut self, peer: NodeId) {
        self.open.remove(&peer);
        self.schedule(peer);
    }

    /// Whether `peer` probably has the key with this hash.
    pub(crate) fn holds(&self, peer: NodeId, short: u64) -> bool {
        self.mirrors.get(&peer).is_some_and(|mirror| mirror.table.contains(short))
    }

    /// The peers that probably have the key with this hash, in the order of their ids.
    pub(crate) fn holders(&self, short: u64) -> impl Iterator<Item = NodeId> {
        self.mirrors.iter().filter(move |(_, mirror)| mirror.table.contains(short)).map(|(peer, _)| *peer)
    }

    /// Whether the table of `peer` is as its newest head says.
    pub(crate) fn is_current(&self, peer: NodeId) -> bool {
        self.mirrors.get(&peer).is_some_and(|mirror| mirror.wants().is_none())
    }

    /// Memory of all tables, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.mirrors
            .values()
            .map(|mirror| mirror.table.bytes() + mirror.fresh.as_ref().map_or(0, |fresh| fresh.table.bytes()))
            .sum()
    }

    /// Asks the next questions, as many as may be open, of peers that are connected. Who is not is passed over until it is
    /// [`Self::reachable`].
    pub(crate) fn ask(&mut self, now: Instant, connected: impl Fn(NodeId) -> bool, out: &mut Outbox) {
        let late = self.open.iter().filter(|(_, (_, until))| *until <= now).map(|(peer, _)| *peer);
        for peer in late.collect::<Vec<_>>() {
            self.open.remove(&peer);
            self.schedule(peer);
        }
        while self.open.len() < OPEN_MAX
            && let Some(peer) = self.waiting.pop(now)
        {
            if connected(peer) {
                self.ask_one(now, peer, out);
            }
        }
    }

    fn ask_one(&mut self, now: Instant, peer: NodeId, out: &mut Outbox) {
        let needs = self.mirrors.get(&peer).and_then(Mirror::needs);
        let fits = needs.is_none_or(|bytes| bytes <= self.bytes_max.saturating_sub(self.bytes()));
        let Some(mirror) = self.mirrors.get_mut(&peer) else {
            return;
        };
        if !fits {
            // What would not fit is left out: such a peer is only asked when it is the home or is followed.
            mirror.not_before = now + CRAMPED;
        } else if let Some(question) = mirror.question(now) {
            out.send(peer, mirror.begin(question));
            self.open.insert(peer, (question, now + PATIENCE));
        }
        self.schedule(peer);
    }

    /// When there may be something to ask or to ask again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.next().filter(|_| self.open.len() < OPEN_MAX);
        self.open.values().map(|(_, until)| *until).chain(waiting).min()
    }

    /// Says anew when a peer is to be asked next.
    fn schedule(&mut self, peer: NodeId) {
        let mirror = self.mirrors.get(&peer).filter(|_| !self.open.contains_key(&peer));
        self.waiting.set(peer, mirror.and_then(Mirror::due));
    }

    /// The answer to a pull.
    pub(crate) fn delta(&mut self, now: Instant, peer: NodeId, delta: Delta, out: &mut Outbox) {
        self.answered(now, peer, Question::Pull, |mirror| {
            if !mirror.take_delta(&delta) {
                out.misbehaved(peer, Why::Inventory);
            }
        });
    }

    /// The answer to the question for a page.
    pub(crate) fn page(&mut self, now: Instant, peer: NodeId, answer: &PageAnswer, out: &mut Outbox) {
        self.answered(now, peer, Question::Page(answer.index), |mirror| {
            mirror.not_before = now;
            let geometry = Geometry::from(answer.shape);
            match Page::from_parts(geometry, &answer.counts, &answer.remainders, answer.sum) {
                Some(page) if geometry.is_valid() => mirror.take_page(geometry, answer, page),
                _ => out.misbehaved(peer, Why::Inventory),
            }
        });
    }

    /// The answer to the question for check sums: pages that differ are fetched again.
    pub(crate) fn audit(&mut self, now: Instant, peer: NodeId, audit: &Audit, random: &mut Random) {
        self.answered(now, peer, Question::Audit, |mirror| {
            mirror.audit_at = now + random.jitter(AUDIT_EVERY);
            mirror.take_audit(audit);
        });
    }

    /// Has `take` take in an answer, if it is the one that is waited for.
    fn answered(&mut self, now: Instant, peer: NodeId, question: Question, take: impl FnOnce(&mut Mirror)) {
        let expected = self.open.get(&peer).is_some_and(|(open, _)| *open == question);
        let Some(mirror) = self.mirrors.get_mut(&peer).filter(|_| expected) else {
            return;
        };
        self.open.remove(&peer);
        mirror.not_before = now + PAUSE;
        take(mirror);
        self.schedule(peer);
    }
}

impl Mirror {
    fn new(now: Instant, audit_at: Instant) -> Self {
        Self {
            table: Table::new(Geometry::fitting(0)),
            epoch: Incarnation::default(),
            sequence: 0,
            head: (Incarnation::default(), 0, 0),
            fresh: None,
            damaged: Vec::new(),
            repaired: BTreeMap::new(),
            not_before: now,
            audit_at,
        }
    }

    /// The next question that brings the mirror nearer to the owner, if any is needed.
    fn wants(&self) -> Option<Question> {
        let (epoch, sequence, _) = self.head;
        if let Some(fresh) = &self.fresh {
            Some(Question::Page(fresh.next))
        } else if epoch != self.epoch || self.table.outgrown() {
            // An owner without anything needs no question.
            (sequence > 0).then_some(Question::Page(0))
        } else if sequence > self.sequence {
            Some(Question::Pull)
        } else {
            self.damaged.first().map(|page| Question::Page(*page))
        }
    }

    /// When the next question may be asked; none while there will be nothing to ask.
    fn due(&self) -> Option<Instant> {
        let audit = || (self.epoch == self.head.0).then_some(self.audit_at);
        self.wants().map(|_| self.not_before).or_else(audit)
    }

    /// The question to ask now.
    fn question(&self, now: Instant) -> Option<Question> {
        self.due().filter(|due| *due <= now).map(|_| self.wants().unwrap_or(Question::Audit))
    }

    /// The memory that the next question takes, in bytes: only the first page of a new table takes any.
    fn needs(&self) -> Option<usize> {
        let (epoch, _, count) = self.head;
        let repairs = self.epoch == epoch && !self.table.outgrown();
        let begins = self.fresh.is_none() && !repairs && self.wants().is_some();
        begins.then(|| usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(3))
    }

    /// The message for a question.
    fn begin(&mut self, question: Question) -> Message {
        if self.needs().is_some() {
            let (epoch, _, count) = self.head;
            let geometry = Geometry::fitting(count);
            let sequences = vec![0; geometry.pages()];
            self.fresh = Some(Fresh { table: Table::new(geometry), epoch, next: 0, sequences });
        }
        match question {
            Question::Pull => Message::Pull(self.epoch, self.sequence),
            Question::Page(index) => {
                let geometry = self.fresh.as_ref().map_or(self.table.geometry(), |fresh| fresh.table.geometry());
                Message::PageAsk(geometry.into(), index)
            }
            Question::Audit => Message::AuditAsk(self.table.geometry().page_bits),
        }
    }

    /// False when the changes contradict what the table has: it is then copied anew.
    fn take_delta(&mut self, delta: &Delta) -> bool {
        if delta.epoch != self.epoch || delta.after != self.sequence {
            self.behind(delta.epoch, delta.last);
        } else if delta.changes.is_empty() && delta.last != self.sequence {
            // The log doesn't reach back so far: a sequence that was never there makes the mirror begin anew.
            self.behind(delta.epoch, delta.last);
            self.epoch = Incarnation::default();
        } else if !self.apply(delta) {
            self.epoch = Incarnation::default();
            return false;
        }
        true
    }

    /// Pages that differ are damaged.
    fn take_audit(&mut self, audit: &Audit) {
        let comparable = audit.epoch == self.epoch
            && audit.sequence == self.sequence
            && audit.sums.len() == self.table.geometry().pages();
        if comparable {
            let differs = |(index, sum): (usize, &u64)| (self.table.sum(index) != *sum).then_some(index as u16);
            self.damaged = audit.sums.iter().enumerate().filter_map(differs).collect();
        }
    }

    /// The owner itself says that it is elsewhere than its head said.
    fn behind(&mut self, epoch: Incarnation, last: u64) {
        if epoch != self.head.0 || last > self.head.1 {
            self.head = (epoch, last, self.head.2);
        }
    }

    /// Applies consecutive changes; false when they contradict what the table has, which only a wrong owner or table can bring about.
    fn apply(&mut self, delta: &Delta) -> bool {
        let mut sound = true;
        for change in delta.changes.iter() {
            self.sequence += 1;
            let hash = change.hash();
            let included = self
                .repaired
                .get(&self.table.geometry().page_of(hash))
                .is_some_and(|sequence| self.sequence <= *sequence);
            if !included {
                sound &= if change.added { self.table.insert(hash) } else { self.table.remove(hash) };
            }
        }
        let sequence = self.sequence;
        self.repaired.retain(|_, included| *included > sequence);
        self.behind(delta.epoch, delta.last);
        sound
    }

    fn take_page(&mut self, geometry: Geometry, answer: &PageAnswer, page: Page) {
        let index = usize::from(answer.index);
        let Some(mut fresh) = self.fresh.take() else {
            if answer.epoch == self.epoch && geometry == self.table.geometry() && self.table.replace(index, page) {
                self.damaged.retain(|damaged| *damaged != answer.index);
                self.repaired.insert(index, answer.sequence);
                self.behind(answer.epoch, answer.sequence);
            }
            return;
        };
        if answer.epoch != fresh.epoch || geometry != fresh.table.geometry() {
            // The owner has restarted meanwhile: begin again, with the epoch it now has.
            self.behind(answer.epoch, answer.sequence);
            return;
        }
        fresh.table.replace(index, page);
        fresh.sequences[index] = answer.sequence;
        fresh.next += 1;
        if usize::from(fresh.next) < geometry.pages() {
            self.fresh = Some(fresh);
        } else {
            self.complete(fresh);
        }
    }

    /// Puts a filled table into use: it is as old as its oldest page, and remembers which pages are newer.
    fn complete(&mut self, fresh: Fresh) {
        let oldest = fresh.sequences.iter().copied().min().unwrap_or(0);
        self.repaired =
            fresh.sequences.iter().copied().enumerate().filter(|(_, sequence)| *sequence > oldest).collect();
        self.table = fresh.table;
        self.epoch = fresh.epoch;
        self.sequence = oldest;
        self.damaged.clear();
        let newest = fresh.sequences.iter().copied().max().unwrap_or(0);
        self.behind(fresh.epoch, newest);
    }
}

#[cfg(test)]
mod tests;
