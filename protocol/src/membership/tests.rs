//! Several memberships in virtual time, joined by a net that delivers at once and can cut nodes off.

use alloc::collections::BTreeSet;
use alloc::vec;

use super::*;

struct Site {
    now: Instant,
    nodes: Vec<Membership>,
    cut: BTreeSet<usize>,
    bytes: usize,
}

fn contact(number: usize, incarnation: u64) -> Contact {
    let address = Some(SocketAddr::from(([192, 0, 2, number as u8], 3142)));
    Contact { node: NodeId([number as u8; 16]), incarnation: Incarnation(incarnation), address }
}

impl Site {
    /// All nodes have been met by the first, and by nobody else.
    fn new(count: usize) -> Self {
        let nodes =
            (0..count).map(|number| Membership::new(contact(number, 1), Random::seeded(number as u64))).collect();
        let mut site = Self { now: Instant::default(), nodes, cut: BTreeSet::new(), bytes: 0 };
        (1..count).for_each(|number| site.nodes[number].met(site.now, contact(0, 1)));
        site
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.nodes.iter().filter_map(Membership::deadline).min().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            for number in 0..self.nodes.len() {
                let events = self.nodes[number].advance(self.now);
                self.deliver(number, events);
            }
        }
        self.now = end;
    }

    fn deliver(&mut self, from: usize, events: Vec<Event>) {
        let mut packets: Vec<(usize, Event)> = events.into_iter().map(|event| (from, event)).collect();
        while let Some((from, event)) = packets.pop() {
            let Event::Send(to, packet) = event else {
                continue;
            };
            let to = usize::from(to.0[0]);
            if self.cut.contains(&from) || self.cut.contains(&to) {
                continue;
            }
            self.bytes += packet.len();
            let events = self.nodes[to].receive(self.now, contact(from, 0).node, &packet).expect("sound packets");
            packets.extend(events.into_iter().map(|event| (to, event)));
        }
    }

    fn live(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.live().len()).collect()
    }
}

#[test]
fn those_who_meet_one_become_members_of_all() {
    let mut site = Site::new(10);
    site.run(Duration::from_secs(5));
    assert_eq!(site.live(), [9; 10]);
    assert!(site.nodes.iter().all(|node| node.sum() == site.nodes[0].sum()), "equal lists have equal sums");
    assert!(site.nodes.iter().flat_map(|node| node.live().values()).all(|contact| contact.address.is_some()));
}

#[test]
fn an_idle_membership_costs_little() {
    let mut site = Site::new(10);
    site.run(Duration::from_secs(10));
    site.bytes = 0;
    site.run(Duration::from_secs(60));
    let each = site.bytes / 60 / 10;
    assert!(each < 400, "{each} B/s sent by each node");
}

#[test]
fn the_dead_are_found_out_and_come_back() {
    let mut site = Site::new(10);
    site.run(Duration::from_secs(5));
    site.cut.insert(3);
    site.run(Duration::from_secs(5));
    assert!(site.live().iter().enumerate().all(|(number, live)| number == 3 || *live == 8), "{:?}", site.live());
    site.cut.clear();
    // As on a new connection: each says who it is.
    let returned = *site.nodes[3].own();
    (0..10).filter(|number| *number != 3).for_each(|number| {
        let other = *site.nodes[number].own();
        site.nodes[3].met(site.now, other);
        site.nodes[number].met(site.now, returned);
    });
    site.run(Duration::from_secs(5));
    assert_eq!(site.live(), [9; 10]);
}

#[test]
fn a_short_sleep_costs_nobody_the_membership() {
    let mut site = Site::new(5);
    site.run(Duration::from_secs(5));
    let (asleep, from) = (site.nodes.swap_remove(4), site.now);
    site.nodes.push(Membership::new(contact(4, 1), Random::seeded(9)));
    site.cut.insert(4);
    site.run(Duration::from_millis(900));
    site.nodes[4] = asleep;
    site.cut.clear();
    assert!(site.now > from);
    site.run(Duration::from_secs(5));
    assert_eq!(site.live(), [4; 5]);
}

/// What is said of lives that are over makes nobody a member: neither of others' nor of one's own.
#[test]
fn the_dead_do_not_rise_by_renaming() {
    let mut node = Membership::new(contact(0, 5), Random::seeded(1));
    for other in [0, 1] {
        for life in [2, 3, 4] {
            let belief = Belief { contact: contact(other, life), refutations: 0, state: State::Down };
            let events = node.believe(Instant::default(), [belief], true);
            assert!(!events.iter().any(|event| matches!(event, Event::Up(_))), "{events:?}");
        }
    }
    assert!(node.live().is_empty());
    let alive = Belief { contact: contact(1, 5), refutations: 0, state: State::Alive };
    node.believe(Instant::default(), [alive], true);
    assert_eq!(node.live().len(), 1);
    let moved = Belief { contact: contact(1, 6), ..alive };
    node.believe(Instant::default(), [moved], true);
    assert_eq!(node.live()[&contact(1, 6).node].incarnation, Incarnation(6));
    let mut fresh = Membership::new(contact(0, 5), Random::seeded(1));
    fresh.believe(Instant::default(), [moved], true);
    assert_eq!(node.sum(), fresh.sum());
    let dead = Belief { contact: contact(1, 7), state: State::Down, ..alive };
    node.believe(Instant::default(), [dead], true);
    assert!(node.live().is_empty());
}

#[test]
fn lists_of_liars_are_bounded() {
    let mut node = Membership::new(contact(0, 1), Random::seeded(1));
    let lies = (0..10_000u32).map(|number| {
        let mut id = [7; 16];
        id[..4].copy_from_slice(&number.to_le_bytes());
        let contact = Contact { node: NodeId(id), incarnation: Incarnation(1), address: None };
        Belief { contact, refutations: 0, state: State::Alive }
    });
    node.believe(Instant::default(), lies, false);
    assert_eq!(node.live().len(), KNOWN_MAX);
}

proptest::proptest! {
    #[test]
    fn no_packet_panics(packet in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let mut node = Membership::new(contact(0, 1), Random::seeded(1));
        let _ = node.receive(Instant::default(), NodeId([1; 16]), &packet);
    }

    #[test]
    fn damaged_packets_do_no_harm(at: proptest::sample::Index, to: u8) {
        let (mut one, mut other) = (Membership::new(contact(0, 1), Random::seeded(1)), Membership::new(contact(1, 1), Random::seeded(2)));
        one.met(Instant::default(), contact(1, 1));
        let mut packets = vec![];
        for event in one.advance(Instant::default()) {
            if let Event::Send(_, packet) = event { packets.push(packet) }
        }
        for mut packet in packets {
            let place = at.index(packet.len());
            packet[place] = to;
            let _ = other.receive(Instant::default(), NodeId([0; 16]), &packet);
        }
    }
}

#[test]
fn who_begins_a_new_life_as_the_net_is_cut_finds_out() {
    let mut site = Site::new(3);
    site.run(Duration::from_secs(5));
    site.cut.insert(0);
    let events = site.nodes[0].live_again(site.now, contact(0, 2));
    site.deliver(0, events);
    site.run(Duration::from_secs(20));
    assert_eq!(site.live(), [0, 1, 1]);
}
