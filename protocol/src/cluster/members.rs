//! Connections, first words, and who is a member.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::peers::Verdict;
use super::profile::Profile;
use super::{Cluster, ConnectionId, GATHER, RETHINK};
use crate::identity::{Incarnation, NodeId};
use crate::membership::{Belief, Contact, Event};
use crate::message::{ADDRESSES_MAX, Hello, MEMBERS_SENT, Member, Message, State};
use crate::output::{Output, Why};
use crate::popularity::{Counter, REQUEST};
use crate::wire::{Few, FewBytes, GrownFew, Later};

/// Between two of this node's comparisons of member lists with somebody.
const COMPARE_EVERY: u64 = 10;
/// Bytes of member lists sent at once and each second: at a cold start everybody's list differs from everybody's.
pub(super) const LISTS_MAX: usize = 256 << 10;
const LISTS_PER_SECOND: usize = 64 << 10;
/// About what one member takes in a list.
const MEMBER_BYTES: usize = 80;
/// What a departed node held is remembered for so long, should it come back.
const REMEMBERED: Duration = Duration::from_secs(600);
/// One that said goodbye is not dialled before.
const GONE: Duration = Duration::from_secs(5);
/// Greater lives of its own that a node hears of within about a minute, before it believes that another has its key.
const USURPED_MAX: u32 = 3 * REQUEST;

impl Cluster {
    pub(super) fn connected(
        &mut self,
        peer: NodeId,
        connection: ConnectionId,
        address: Option<SocketAddr>,
        dialled: bool,
    ) {
        let now = self.now;
        self.dial_soon();
        if peer == self.own {
            self.met_own_key(connection, address.filter(|_| dialled));
            return;
        }
        match address {
            Some(address) if dialled => self.dialling.connected(now, peer, address),
            Some(address) => self.dialling.lives_at(now, self.own, peer, address),
            None => {}
        }
        let dialler = if dialled { self.own } else { peer };
        match self.peers.connected(now, dialler, peer, connection, address) {
            Verdict::Refuse(why) => self.out.push(Output::Disconnect { peer, connection, why }),
            Verdict::Take(spare) => {
                if let Some(connection) = spare {
                    self.out.push(Output::Disconnect { peer, connection, why: Why::Spare });
                    self.mirrors.disconnected(peer);
                    self.refresh_home(peer);
                }
                self.say_hello(peer);
            }
        }
    }

    pub(super) fn dial_failed(&mut self, address: SocketAddr) {
        self.dial_soon();
        let peer = self.dialling.failed(self.now, address, &mut self.random);
        if let Some(peer) = peer.filter(|peer| !self.peers.is_connected(*peer)) {
            self.health.unreachable(self.now, peer);
        }
    }

    /// A connection is no more, and nothing was put in its place.
    pub(super) fn parted(&mut self, peer: NodeId) {
        let now = self.now;
        self.dial_soon();
        self.health.unreachable(now, peer);
        self.dialling.disconnected(now, peer, &mut self.random);
        self.membership.parted(peer);
        self.mirrors.disconnected(peer);
        self.claims.disconnected(now, peer);
        self.confirmations.disconnected(now, peer);
        self.forgetting.parted(peer, &mut self.out);
        self.uplink.parted(peer);
        self.refresh_home(peer);
        if !self.is_live(peer) && !self.departed.contains_key(&peer) {
            // It came and went without ever being a member: nothing is kept of such.
            self.forget(peer);
        }
    }

    fn disconnect(&mut self, peer: NodeId, why: Why) {
        if let Some(connection) = self.peers.remove(peer).map(|peer| peer.connection) {
            self.parted(peer);
            self.out.push(Output::Disconnect { peer, connection, why });
        }
    }

    /// A peer did what no sound node does.
    pub(super) fn offended(&mut self, peer: NodeId, why: Why) {
        self.out.misbehaved(peer, why);
        if self.peers.offended(self.now, peer) {
            self.disconnect(peer, Why::PutAside);
            if let Some(until) = self.peers.aside_until(self.now, peer) {
                self.dialling.postpone(peer, until);
            }
        }
    }

    pub(super) fn say_hello(&mut self, peer: NodeId) {
        let hello = Hello {
            version: *self.config.speaks.end(),
            oldest: *self.config.speaks.start(),
            incarnation: self.membership.own().incarnation,
            addresses: Few::of(self.config.addresses.iter().copied()),
            yours: self.membership.incarnation_of(peer).unwrap_or_default(),
            members: self.membership.sum(),
            name: Later(self.own_profile().wire_name()),
            client_port: Later(self.config.client_port),
        };
        self.send(peer, Message::Hello(hello));
    }

    pub(super) fn hello(&mut self, from: NodeId, hello: &Hello) {
        let now = self.now;
        let speaks = &self.config.speaks;
        if hello.oldest > *speaks.end() || hello.version < *speaks.start() {
            let until = self.peers.speaks_otherwise(now, from);
            self.disconnect(from, Why::Version);
            self.dialling.postpone(from, until);
            return;
        }
        self.profiles.insert(from, Profile::told(&hello.name.0, hello.client_port.0));
        if hello.yours > self.membership.own().incarnation {
            self.usurped(hello.yours);
        }
        for address in hello.addresses.iter().filter(|address| is_of_use(**address)) {
            self.dialling.lives_at(now, self.own, from, *address);
        }
        let seen = self.peers.of(from).and_then(|peer| peer.address);
        let address = hello.addresses.first().copied().or(seen);
        let contact = Contact { node: from, incarnation: hello.incarnation.min(Incarnation::MAX), address };
        if self.peers.greet(from, contact.incarnation) {
            self.health.reachable(now, from);
            self.refresh_home(from);
            self.introduce_own_head(from);
            self.forgetting.introduce(now, from, &mut self.out);
            self.uplink.met(from, &mut self.out);
        }
        self.membership.met(now, contact);
        let events = self.membership.believe(now, [Belief { contact, refutations: 0, state: State::Alive }], true);
        self.digest(events);
        if hello.members != self.membership.sum() {
            self.send_list(from);
        } else {
            self.introduced = true;
        }
    }

    /// Somebody has heard of a greater life of this node than the present: the wall clock had gone back before the start, or another
    /// node has the same key.
    pub(super) fn usurped(&mut self, incarnation: Incarnation) {
        self.usurped.add(self.now, REQUEST);
        if self.usurped.amount(self.now) >= USURPED_MAX {
            self.usurped = Counter::new(self.now);
            self.out.push(Output::DuplicateIdentity);
            return;
        }
        let contact = Contact { incarnation: incarnation.next(), ..*self.membership.own() };
        // What was said of the inventory in the lives before must not be taken for newer than what is.
        self.inventory.live_again(contact.incarnation);
        self.head.epoch = contact.incarnation;
        let events = self.membership.live_again(self.now, contact);
        self.digest(events);
    }

    /// This node can be reached elsewhere from now on.
    pub(super) fn moved(&mut self, mut addresses: Vec<SocketAddr>) {
        addresses.truncate(ADDRESSES_MAX);
        if addresses == self.config.addresses {
            return;
        }
        self.config.addresses = addresses;
        let own = *self.membership.own();
        let address = self.config.addresses.first().copied();
        if address != own.address {
            let contact = Contact { incarnation: own.incarnation.next(), address, ..own };
            let events = self.membership.live_again(self.now, contact);
            self.digest(events);
        }
        self.peers.greeted().collect::<Vec<_>>().into_iter().for_each(|peer| self.say_hello(peer));
    }

    pub(super) fn swim(&mut self, from: NodeId, packet: &[u8]) {
        match self.membership.receive(self.now, from, packet) {
            Some(events) => self.digest(events),
            None => self.offended(from, Why::Membership),
        }
    }

    /// Somebody's list, or some of it.
    pub(super) fn listed(&mut self, from: NodeId, members: &[Member]) {
        self.introduced |= members.iter().any(|member| member.node == from);
        let mut beliefs = Vec::with_capacity(members.len());
        for member in members {
            let own = self.membership.own().incarnation;
            let incarnation = member.incarnation.min(Incarnation::MAX);
            if member.node == self.own && incarnation != own {
                if incarnation > own {
                    self.usurped(incarnation);
                }
                continue;
            }
            if member.state == State::Alive && !self.peers.is_connected(member.node) {
                for address in member.addresses.iter().filter(|address| is_of_use(**address)) {
                    self.dialling.lives_at(self.now, self.own, member.node, *address);
                }
                self.dial_soon();
            }
            let contact = Contact { node: member.node, incarnation, address: member.addresses.first().copied() };
            beliefs.push(Belief { contact, refutations: member.refutations, state: member.state });
        }
        let events = self.membership.believe(self.now, beliefs, false);
        self.digest(events);
        members.iter().filter_map(|member| member.head).for_each(|head| self.heard(from, head));
        for member in members {
            // What a node says of itself counts for more, and of strangers nothing is kept.
            if self.is_live(member.node) && !self.peers.is_greeted(member.node) {
                self.profiles.insert(member.node, Profile::told(&member.name, member.client_port));
            }
        }
    }

    fn send_list(&mut self, to: NodeId) {
        let bytes = (self.membership.known() + 1) * MEMBER_BYTES;
        // A list too long for what is left goes if nothing else went.
        if self.lists < bytes.min(LISTS_MAX) {
            return;
        }
        self.lists = self.lists.saturating_sub(bytes);
        let own = Belief { contact: *self.membership.own(), refutations: 0, state: State::Alive };
        let others = self.membership.beliefs().filter(|belief| belief.contact.node != self.own);
        let beliefs: Vec<Belief> = core::iter::once(own).chain(others).collect();
        for some in beliefs.chunks(MEMBERS_SENT) {
            let members: Vec<Member> = some.iter().map(|belief| self.member(belief)).collect();
            self.send(to, Message::Members(GrownFew::of(members)));
        }
    }

    fn member(&self, belief: &Belief) -> Member {
        let Contact { node, incarnation, address } = belief.contact;
        let mut addresses: Vec<SocketAddr> = if node == self.own {
            self.config.addresses.clone()
        } else {
            address.into_iter().chain(self.dialling.addresses_of(node)).collect()
        };
        addresses.retain(|address| is_of_use(*address));
        let mut seen = Vec::new();
        addresses.retain(|address| {
            !seen.contains(address) && {
                seen.push(*address);
                true
            }
        });
        let head = if node == self.own { Some(self.head) } else { self.heads.of(node).copied() };
        let profile = if node == self.own { Some(self.own_profile()) } else { self.profiles.get(&node).cloned() };
        let profile = profile.unwrap_or_default();
        Member {
            node,
            incarnation,
            refutations: belief.refutations,
            state: belief.state,
            addresses: Few::of(addresses),
            head,
            name: profile.wire_name(),
            client_port: profile.client_port,
        }
    }

    /// Does what membership wants done.
    pub(super) fn digest(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Send(to, packet) => {
                    if self.peers.is_greeted(to) {
                        self.send(to, Message::Swim(FewBytes::of(&packet)));
                    }
                }
                Event::Up(contact) => self.up(contact),
                Event::Down(node, found_out) => self.down(node, found_out),
                Event::Rejoined(incarnation) => {
                    self.news();
                    self.claims.homes_changed(self.now);
                    self.out.push(Output::Rejoined(incarnation));
                }
            }
        }
    }

    fn up(&mut self, contact: Contact) {
        let Contact { node, address, .. } = contact;
        if node == self.own {
            return;
        }
        self.departed.remove(&node);
        self.dialling.hurry(self.now, self.own, node);
        self.dial_soon();
        if let Some(address) = address.filter(|address| is_of_use(*address)) {
            self.dialling.lives_at(self.now, self.own, node, address);
        }
        self.out.push(Output::MemberUp { peer: node, address });
        self.refresh_home(node);
    }

    fn down(&mut self, node: NodeId, found_out: bool) {
        if node == self.own {
            return;
        }
        self.departed.insert(node, self.now);
        // While there is a connection it may only have slept, or the net between been cut: it is to hear that it is believed dead.
        let contact = self.membership.beliefs().map(|belief| belief.contact).find(|contact| contact.node == node);
        if let Some(contact) = contact.filter(|_| self.peers.is_greeted(node)) {
            self.membership.met(self.now, contact);
        }
        self.claims.gone(node);
        self.forgetting.parted(node, &mut self.out);
        self.replication.gone(self.now, node);
        self.out.push(Output::MemberDown(node));
        self.refresh_home(node);
        if !found_out {
            return;
        }
        // Gossip reaches nearly everybody; this reaches everybody, and at once.
        let Some(belief) = self.membership.beliefs().find(|belief| belief.contact.node == node) else {
            return;
        };
        let news =
            Message::Members(GrownFew::of([Member { addresses: Few::of([]), head: None, ..self.member(&belief) }]));
        for peer in self.peers.greeted().filter(|peer| *peer != node).collect::<Vec<_>>() {
            self.send(peer, news.clone());
        }
    }

    /// A peer says that it goes.
    pub(super) fn bye(&mut self, from: NodeId, incarnation: Incarnation) {
        if let Some(contact) =
            self.membership.live().get(&from).copied().filter(|known| known.incarnation == incarnation)
        {
            let belief = Belief { contact, refutations: u16::MAX, state: State::Down };
            let events = self.membership.believe(self.now, [belief], true);
            self.digest(events);
        }
        self.dialling.postpone(from, self.now + GONE);
    }

    pub(super) fn leave(&mut self) {
        let incarnation = self.membership.own().incarnation;
        for peer in self.peers.greeted().collect::<Vec<_>>() {
            self.send(peer, Message::Bye(incarnation));
        }
        let events = self.membership.leave(self.now);
        self.digest(events);
        self.left = true;
    }

    pub(super) fn own_profile(&self) -> Profile {
        Profile::told(self.config.name.as_bytes(), self.config.client_port)
    }

    pub(super) fn is_live(&self, node: NodeId) -> bool {
        self.membership.live().contains_key(&node)
    }

    /// Says anew whether a node may be a home, and looks what to ask of it.
    pub(super) fn refresh_home(&mut self, node: NodeId) {
        self.mirrors.reachable(node);
        self.ask_soon();
        let able = if node == self.own {
            !self.draining()
        } else {
            let leaves = self.heads.of(node).is_some_and(|head| head.draining);
            self.peers.is_greeted(node) && self.is_live(node) && !leaves
        };
        match (self.homes.binary_search(&node), able) {
            (Err(place), true) => self.homes.insert(place, node),
            (Ok(place), false) => {
                self.homes.remove(place);
            }
            _ => return,
        }
        self.claims.homes_changed(self.now);
    }

    /// There is news of somebody to connect to.
    pub(super) fn dial_soon(&mut self) {
        self.dial_at = self.dial_at.min(self.now.max(self.dialled_at + GATHER));
    }

    /// Connects to whom it is time to connect to.
    pub(super) fn dial(&mut self) {
        let now = self.now;
        let connected = |peer| self.peers.is_connected(peer) || self.peers.aside_until(now, peer).is_some();
        for address in self.dialling.due(now, connected) {
            self.out.push(Output::Dial(address));
        }
        self.dialled_at = now;
        let next = self.dialling.deadline().unwrap_or(self.tick_at);
        self.dial_at = next.max(now + RETHINK);
    }

    /// The second's share of housekeeping that concerns members.
    pub(super) fn tidy_members(&mut self) {
        let now = self.now;
        for peer in self.peers.silent(now) {
            self.disconnect(peer, Why::Silent);
        }
        self.lists = (self.lists + LISTS_PER_SECOND).min(LISTS_MAX);
        if self.ticks.is_multiple_of(COMPARE_EVERY) {
            let greeted: Vec<NodeId> = self.peers.greeted().collect();
            self.random.pick(&greeted, 1).into_iter().for_each(|peer| self.say_hello(peer));
            self.dialling.tidy(now, |peer| self.peers.is_connected(peer));
        }
        self.forget_departed();
    }

    fn forget_departed(&mut self) {
        let now = self.now;
        let crowded = !self.departed.is_empty() && self.mirrors.bytes() > self.config.mirrors_bytes_max / 2;
        let forgotten: Vec<NodeId> = self
            .departed
            .iter()
            .filter(|(_, since)| crowded || now.since(**since) > REMEMBERED)
            .map(|(node, _)| *node)
            .collect();
        for node in forgotten {
            self.departed.remove(&node);
            self.forget(node);
        }
    }

    fn forget(&mut self, node: NodeId) {
        self.heads.forget(node);
        self.mirrors.forget(node);
        self.health.forget(self.now, node);
        self.tops.remove(&node);
        self.profiles.remove(&node);
    }
}

/// Whether an address means anything to others than the one who knows it.
const fn is_of_use(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_unicast_link_local(),
    }
}
