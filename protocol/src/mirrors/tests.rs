//! A mirror against the inventory it copies, with every answer as the wire would carry it.

use super::*;
use crate::inventory::Inventory;
use crate::random::mix;

const OWNER: NodeId = NodeId([1; 16]);

struct Pair {
    owner: Inventory,
    mirrors: Mirrors,
    now: Instant,
    random: Random,
    next: u64,
    /// Changes made at the owner between a question and its answer, to provoke every order of things.
    unrest: u64,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let owner = Inventory::new(Incarnation(5));
        Self {
            owner,
            mirrors: Mirrors::new(1 << 30),
            now: Instant::default(),
            random: Random::seeded(seed),
            next: 0,
            unrest: 0,
        }
    }

    fn add(&mut self, count: u64) {
        for _ in 0..count {
            self.next += 1;
            self.owner.change(mix(self.next), true);
            if self.next.is_multiple_of(5) {
                self.owner.change(mix(self.next / 2), false);
            }
        }
    }

    /// Lets the mirror ask until it has nothing to ask for; returns how many questions it took.
    fn settle(&mut self) -> usize {
        let head = (self.owner.epoch(), self.owner.sequence(), self.owner.count());
        self.mirrors.announced(self.now, OWNER, head, &mut self.random);
        for questions in 0.. {
            self.now = self.now + Duration::from_millis(150);
            let mut out = Outbox::default();
            self.mirrors.ask(self.now, |_| true, &mut out);
            let Some((_, question)) = out.messages().pop() else {
                return questions;
            };
            let unrest = self.unrest;
            self.unrest /= 2;
            self.add(unrest);
            self.answer(question);
            assert!(questions < 1000);
        }
        unreachable!()
    }

    fn answer(&mut self, question: Message) {
        let mut out = Outbox::default();
        match question {
            Message::Pull(epoch, after) => {
                self.mirrors.delta(self.now, OWNER, self.owner.delta(epoch, after), &mut out)
            }
            Message::PageAsk(shape, index) => {
                self.mirrors.page(self.now, OWNER, &self.owner.page(shape, index).unwrap(), &mut out)
            }
            Message::AuditAsk(bits) => {
                self.mirrors.audit(self.now, OWNER, &self.owner.audit(bits).unwrap(), &mut self.random)
            }
            other => panic!("{other:?}"),
        }
        assert!(out.pop().is_none(), "a sound owner was accused");
    }

    fn assert_equal(&self) {
        let mirror = &self.mirrors.mirrors[&OWNER];
        assert_eq!(mirror.sequence, self.owner.sequence());
        assert_eq!(mirror.table.len() as u64, self.owner.count());
        let audit = self.owner.audit(mirror.table.geometry().page_bits).unwrap();
        assert!(audit.sums.iter().enumerate().all(|(index, sum)| mirror.table.sum(index) == *sum));
    }
}

#[test]
fn a_mirror_follows_its_owner() {
    let mut pair = Pair::new(1);
    pair.add(10);
    pair.settle();
    pair.assert_equal();
    pair.add(30);
    assert_eq!(pair.settle(), 1, "one pull");
    pair.assert_equal();
}

#[test]
fn a_mirror_far_behind_begins_anew() {
    let mut pair = Pair::new(2);
    pair.add(10);
    pair.settle();
    pair.add(40_000);
    assert!(pair.settle() > 20, "pages");
    pair.assert_equal();
}

#[test]
fn changes_between_pages_are_applied_once() {
    for seed in 0..20 {
        let mut pair = Pair::new(seed);
        pair.add(5_000);
        pair.unrest = 400 + seed * 7;
        pair.settle();
        pair.assert_equal();
    }
}

#[test]
fn an_owner_that_restarts_is_followed_again() {
    let mut pair = Pair::new(3);
    pair.add(3_000);
    pair.settle();
    pair.owner = Inventory::new(Incarnation(6));
    pair.next = 0;
    pair.add(100);
    pair.settle();
    pair.assert_equal();
}

#[test]
fn an_audit_finds_and_repairs_a_damaged_page() {
    let mut pair = Pair::new(4);
    pair.add(5_000);
    pair.settle();
    let mirror = pair.mirrors.mirrors.get_mut(&OWNER).unwrap();
    assert!(mirror.table.remove(mix(4_999)));
    mirror.audit_at = pair.now;
    pair.mirrors.reachable(OWNER);
    pair.unrest = 0;
    assert_eq!(pair.settle(), 2, "an audit and a page");
    pair.assert_equal();
}

#[test]
fn what_does_not_fit_is_not_mirrored() {
    let mut pair = Pair::new(5);
    pair.mirrors.bytes_max = 1000;
    pair.add(5_000);
    assert_eq!(pair.settle(), 0);
    assert!(pair.mirrors.bytes() < 1000);
    assert_eq!(pair.mirrors.deadline(), Some(pair.now + CRAMPED), "it is not looked at all the time");
}

#[test]
fn nobody_is_waited_for_who_has_nothing_or_is_away() {
    let mut pair = Pair::new(7);
    assert_eq!(pair.settle(), 0);
    assert_eq!(pair.mirrors.deadline(), None, "nothing to ask, ever");
    pair.add(10);
    pair.mirrors.announced(pair.now, OWNER, (Incarnation(5), 10, 10), &mut pair.random);
    pair.mirrors.ask(pair.now, |_| false, &mut Outbox::default());
    assert_eq!(pair.mirrors.deadline(), None, "it is away");
    pair.mirrors.reachable(OWNER);
    assert!(pair.settle() > 0);
    pair.assert_equal();
}

#[test]
fn answers_to_no_question_are_ignored() {
    let mut pair = Pair::new(6);
    pair.add(10);
    pair.settle();
    pair.add(5);
    let delta = pair.owner.delta(Incarnation(5), 12);
    let mut out = Outbox::default();
    pair.mirrors.delta(pair.now, OWNER, delta, &mut out);
    assert!(out.pop().is_none());
    pair.settle();
    pair.assert_equal();
}
