//! Who is a live member of the site: SWIM, as foca implements it. The only file that names foca.
//!
//! Beyond plain SWIM: a connected stranger is announced to until it is a member; lists of all members are exchanged by the caller;
//! and a node that overslept gives everybody time to speak before it declares anybody dead.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::num::{NonZeroU8, NonZeroUsize};
use core::time::Duration;

use bytes::{Buf, BufMut, TryGetError};
use foca::{Foca, NoCustomBroadcast, Notification, Timer};

use crate::identity::{Incarnation, NodeId};
use crate::message::{SWIM_MAX, State};
use crate::random::{Random, mix};
use crate::schedule::Schedule;
use crate::time::Instant;

/// The greatest packet, with the two ids that the wire leaves out because the connection knows them.
const PACKET_MAX: NonZeroUsize = NonZeroUsize::new(SWIM_MAX + IDS).expect("greater than zero");
const IDS: usize = 32;
/// Nodes remembered, dead ones too: whoever lies about more is not believed.
const KNOWN_MAX: usize = 4096;
const ANNOUNCE_EVERY: Duration = Duration::from_millis(500);
const SUSPICION: Duration = Duration::from_millis(1100);
/// A timer this late means that the node itself was asleep.
const OVERSLEPT: Duration = Duration::from_millis(700);
/// Timers handled in one call.
const TIMERS_AT_ONCE: usize = 64;

/// A node in one of its lives, and where it can be reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contact {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: Option<SocketAddr>,
}

/// What is believed of one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Belief {
    pub(crate) contact: Contact,
    pub(crate) refutations: u16,
    pub(crate) state: State,
}

/// What has happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Send(NodeId, Vec<u8>),
    Up(Contact),
    /// With whether this node found out by itself.
    Down(NodeId, bool),
    Rejoined(Incarnation),
}

/// What foca has said.
enum Noted {
    Event(Event),
    /// A node has begun another life; whether either is the life of a live member is not said.
    Renamed(Contact),
}

/// The membership state machine.
pub(crate) struct Membership {
    foca: Foca<Contact, PacketCodec, Random, NoCustomBroadcast>,
    agenda: Agenda,
    /// Connected, but not yet members.
    strangers: BTreeMap<NodeId, Contact>,
    /// When to announce to each of them again.
    announcements: Schedule<NodeId>,
    /// Live members, by their id; a copy of what foca has, in order.
    live: BTreeMap<NodeId, Contact>,
    sum: u64,
}

/// What foca wants done, in order; and its timers.
#[derive(Default)]
struct Agenda {
    now: Instant,
    timers: BTreeMap<(Instant, u64), Timer<Contact>>,
    next_timer: u64,
    noted: Vec<Noted>,
    finding_out: bool,
}

impl Membership {
    pub(crate) fn new(own: Contact, seed: Random) -> Self {
        let foca = Foca::new(own, settings(), seed, PacketCodec);
        Self {
            foca,
            agenda: Agenda::default(),
            strangers: BTreeMap::new(),
            announcements: Schedule::default(),
            live: BTreeMap::new(),
            sum: 0,
        }
    }

    pub(crate) fn own(&self) -> &Contact {
        self.foca.identity()
    }

    /// Live members other than this node.
    pub(crate) const fn live(&self) -> &BTreeMap<NodeId, Contact> {
        &self.live
    }

    /// Of how many something is believed.
    pub(crate) fn known(&self) -> usize {
        self.foca.iter_membership_state().len()
    }

    /// All that is believed, of the dead too, but not of this node.
    pub(crate) fn beliefs(&self) -> impl Iterator<Item = Belief> {
        self.foca.iter_membership_state().map(|member| Belief {
            contact: *member.id(),
            refutations: member.incarnation(),
            state: match member.state() {
                foca::State::Alive => State::Alive,
                foca::State::Suspect => State::Suspect,
                foca::State::Down => State::Down,
            },
        })
    }

    /// A check sum of the live members in their lives, this node too: equal sums mean equal lists.
    pub(crate) fn sum(&self) -> u64 {
        self.sum ^ share_of_sum(self.own())
    }

    /// The life in which a node is believed to be, dead or not.
    pub(crate) fn incarnation_of(&self, node: NodeId) -> Option<Incarnation> {
        let live = self.live.get(&node).map(|contact| contact.incarnation);
        live.or_else(|| {
            self.foca.iter_membership_state().map(foca::Member::id).find(|id| id.node == node).map(|id| id.incarnation)
        })
    }

    /// A peer is connected and has said who it is: announce to it until it is a member.
    pub(crate) fn met(&mut self, now: Instant, peer: Contact) {
        if self.live.get(&peer.node).is_none_or(|known| known.incarnation < peer.incarnation) {
            self.strangers.insert(peer.node, peer);
            self.announcements.set(peer.node, Some(now));
        }
    }

    /// A peer is no longer connected: announcing would not reach it.
    pub(crate) fn parted(&mut self, peer: NodeId) {
        self.strangers.remove(&peer);
        self.announcements.set(peer, None);
    }

    /// Takes in what a peer believes. `tell` passes news on to others by gossip.
    pub(crate) fn believe(
        &mut self,
        now: Instant,
        beliefs: impl IntoIterator<Item = Belief>,
        tell: bool,
    ) -> Vec<Event> {
        let mut room = KNOWN_MAX.saturating_sub(self.known());
        let own = self.own().node;
        let mut news = Vec::new();
        for belief in beliefs {
            let node = belief.contact.node;
            // Most of a list is known, and foca looks each entry up by going through all it has.
            let alive = belief.state == State::Alive && belief.refutations == 0;
            let known = self.live.get(&node).is_some_and(|live| live.incarnation == belief.contact.incarnation);
            if alive && known {
                continue;
            }
            let stranger = node != own && !self.live.contains_key(&node);
            if stranger && room == 0 {
                continue;
            }
            room -= usize::from(stranger);
            let state = match belief.state {
                State::Alive => foca::State::Alive,
                State::Suspect => foca::State::Suspect,
                State::Down => foca::State::Down,
            };
            news.push(foca::Member::new(belief.contact, belief.refutations, state));
        }
        if !news.is_empty() {
            self.agenda.now = now;
            // Fails only where a packet can't be encoded, which leaves nothing to undo.
            let _ = self.foca.apply_many(news.into_iter(), tell, &mut self.agenda);
        }
        self.events()
    }

    /// A packet from a peer. `None` when it makes no sense.
    pub(crate) fn receive(&mut self, now: Instant, from: NodeId, packet: &[u8]) -> Option<Vec<Event>> {
        self.agenda.now = now;
        let mut whole = Vec::with_capacity(IDS + packet.len());
        whole.extend_from_slice(&from.0);
        whole.extend_from_slice(&self.own().node.0);
        whole.extend_from_slice(packet);
        let known = self.known() < KNOWN_MAX || self.live.contains_key(&from);
        let sense = !known
            || !matches!(
                self.foca.handle_data(&whole, &mut self.agenda),
                Err(foca::Error::Decode(_) | foca::Error::MalformedPacket)
            );
        let events = self.events();
        sense.then_some(events)
    }

    /// This node's life is over according to others, or its address has changed: begin a greater one.
    pub(crate) fn live_again(&mut self, now: Instant, contact: Contact) -> Vec<Event> {
        self.agenda.now = now;
        let _ = self.foca.change_identity(contact, &mut self.agenda);
        self.agenda.noted.push(Noted::Event(Event::Rejoined(contact.incarnation)));
        self.events()
    }

    /// Tells a few members that this node goes.
    pub(crate) fn leave(&mut self, now: Instant) -> Vec<Event> {
        self.agenda.now = now;
        let _ = self.foca.leave_cluster(&mut self.agenda);
        self.events()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let timer = self.agenda.timers.keys().next().map(|(at, _)| *at);
        timer.into_iter().chain(self.announcements.next()).min()
    }

    /// Does what is due.
    pub(crate) fn advance(&mut self, now: Instant) -> Vec<Event> {
        self.agenda.now = now;
        for _ in 0..TIMERS_AT_ONCE {
            match self.agenda.timers.first_entry() {
                Some(entry) if entry.key().0 <= now => {
                    let ((due, _), timer) = entry.remove_entry();
                    self.fire(now.since(due), timer);
                }
                _ => break,
            }
        }
        while let Some(peer) = self.announcements.pop(now) {
            self.announcements.set(peer, Some(now + ANNOUNCE_EVERY));
            if let Some(peer) = self.strangers.get(&peer) {
                let _ = self.foca.announce(*peer, &mut self.agenda);
            }
        }
        self.events()
    }

    fn fire(&mut self, late: Duration, timer: Timer<Contact>) {
        let verdict = matches!(timer, Timer::ChangeSuspectToDown { .. });
        if verdict && late > OVERSLEPT {
            foca::Runtime::submit_after(&mut self.agenda, timer, SUSPICION);
            return;
        }
        self.agenda.finding_out = verdict;
        // An incomplete probe, after oversleeping, is the only error there can be; foca has begun the next by itself.
        let _ = self.foca.handle_timer(timer, &mut self.agenda);
        self.agenda.finding_out = false;
    }

    /// Brings the copy of the live members up to date and hands the events out.
    fn events(&mut self) -> Vec<Event> {
        let own = self.own().node;
        if self.agenda.noted.iter().any(|noted| matches!(noted, Noted::Event(Event::Rejoined(_)))) {
            // In a new life foca probes nobody until a packet comes; should the net be cut just then, it never would.
            let _ = self.foca.apply_many(core::iter::empty(), false, &mut self.agenda);
        }
        let mut events = Vec::new();
        for noted in core::mem::take(&mut self.agenda.noted) {
            match noted {
                // Of this node's own earlier lives it is only said here that they are over.
                Noted::Event(Event::Up(Contact { node, .. }) | Event::Down(node, _)) if node == own => {}
                Noted::Event(event) => {
                    self.keep_up(&event);
                    events.push(event);
                }
                // From death to death it is no news, from death to life an `Up` follows, from life to death a `Down`.
                Noted::Renamed(new) if self.live.contains_key(&new.node) && new.node != own => {
                    for event in [Event::Down(new.node, false), Event::Up(new)] {
                        self.keep_up(&event);
                        events.push(event);
                    }
                }
                Noted::Renamed(_) => {}
            }
        }
        events
    }

    fn keep_up(&mut self, event: &Event) {
        let old = match event {
            Event::Up(contact) => {
                self.parted(contact.node);
                self.sum ^= share_of_sum(contact);
                self.live.insert(contact.node, *contact)
            }
            Event::Down(node, _) => self.live.remove(node),
            Event::Send(..) | Event::Rejoined(_) => None,
        };
        if let Some(old) = old {
            self.sum ^= share_of_sum(&old);
        }
    }
}

/// Found by measurement: death is seen by all within some two seconds, at some five small packets a second. A probe every 200 ms and a
/// suspicion of 1.5 s see it no sooner, and cost twice as much.
fn settings() -> foca::Config {
    let mut settings = foca::Config::simple();
    settings.probe_period = Duration::from_millis(400);
    settings.probe_rtt = Duration::from_millis(100);
    settings.suspect_to_down_after = SUSPICION;
    settings.remove_down_after = Some(Duration::from_secs(3600));
    settings.max_transmissions = NonZeroU8::new(10).unwrap_or(NonZeroU8::MAX);
    settings.max_packet_size = PACKET_MAX;
    settings.notify_down_members = true;
    settings.periodic_gossip = NonZeroUsize::new(3)
        .map(|num_members| foca::PeriodicParams { frequency: Duration::from_millis(200), num_members });
    settings
}

fn share_of_sum(contact: &Contact) -> u64 {
    let (low, high) = contact.node.halves();
    mix(mix(low ^ mix(high)) ^ contact.incarnation.0)
}

impl PartialEq for Contact {
    /// An address may be known or not: it is the same life all the same.
    fn eq(&self, other: &Self) -> bool {
        (self.node, self.incarnation) == (other.node, other.incarnation)
    }
}

impl Eq for Contact {}

impl foca::Identity for Contact {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { incarnation: self.incarnation.next(), ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.incarnation > adversary.incarnation
    }
}

impl foca::Runtime<Contact> for Agenda {
    fn notify(&mut self, notification: Notification<'_, Contact>) {
        let event = match notification {
            Notification::MemberUp(contact) => Event::Up(*contact),
            Notification::MemberDown(contact) => Event::Down(contact.node, self.finding_out),
            Notification::Rename(_, new) => return self.noted.push(Noted::Renamed(*new)),
            Notification::Rejoin(own) => Event::Rejoined(own.incarnation),
            Notification::Active | Notification::Idle | Notification::Defunct => return,
        };
        self.noted.push(Noted::Event(event));
    }

    fn send_to(&mut self, to: Contact, data: &[u8]) {
        debug_assert!(data.len() >= IDS, "every packet begins with two ids");
        self.noted.push(Noted::Event(Event::Send(to.node, data[IDS.min(data.len())..].to_vec())));
    }

    fn submit_after(&mut self, event: Timer<Contact>, after: Duration) {
        self.next_timer += 1;
        self.timers.insert((self.now + after, self.next_timer), event);
    }
}

/// The bytes of membership packets: what the connection knows comes first, so that it can be left out.
struct PacketCodec;

#[derive(Debug)]
struct BadPacket;

impl core::fmt::Display for BadPacket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("not a membership packet")
    }
}

impl core::error::Error for BadPacket {}

impl From<TryGetError> for BadPacket {
    fn from(_: TryGetError) -> Self {
        Self
    }
}

impl foca::Codec<Contact> for PacketCodec {
    type Error = BadPacket;

    fn encode_header(&mut self, header: &foca::Header<Contact>, mut buf: impl BufMut) -> Result<(), BadPacket> {
        use foca::Message as M;
        let mut bytes = Vec::with_capacity(96);
        bytes.extend_from_slice(&header.src.node.0);
        bytes.extend_from_slice(&header.dst.node.0);
        let (kind, probe, third) = match &header.message {
            M::Ping(probe) => (0, Some(probe), None),
            M::Ack(probe) => (1, Some(probe), None),
            M::PingReq { target, probe_number } => (2, Some(probe_number), Some(target)),
            M::IndirectPing { origin, probe_number } => (3, Some(probe_number), Some(origin)),
            M::IndirectAck { target, probe_number } => (4, Some(probe_number), Some(target)),
            M::ForwardedAck { origin, probe_number } => (5, Some(probe_number), Some(origin)),
            M::Announce => (6, None, None),
            M::Feed => (7, None, None),
            M::Gossip => (8, None, None),
            M::Broadcast => (9, None, None),
            M::TurnUndead => (10, None, None),
        };
        bytes.push(kind);
        bytes.extend(probe);
        put_incarnation(&mut bytes, header.src.incarnation);
        bytes.extend_from_slice(&header.src_incarnation.to_le_bytes());
        put_address(&mut bytes, header.src.address);
        put_incarnation(&mut bytes, header.dst.incarnation);
        if let Some(third) = third {
            put_contact(&mut bytes, third);
        }
        put_whole(&bytes, &mut buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<foca::Header<Contact>, BadPacket> {
        use foca::Message as M;
        let (src, dst) = (node(&mut buf)?, node(&mut buf)?);
        let kind = buf.try_get_u8()?;
        let probe_number = if kind < 6 { buf.try_get_u8()? } else { 0 };
        let src_life = incarnation(&mut buf)?;
        let src_incarnation = buf.try_get_u16_le()?;
        let src_address = address(&mut buf)?;
        let dst_life = incarnation(&mut buf)?;
        let message = match kind {
            0 => M::Ping(probe_number),
            1 => M::Ack(probe_number),
            2 => M::PingReq { target: contact(&mut buf)?, probe_number },
            3 => M::IndirectPing { origin: contact(&mut buf)?, probe_number },
            4 => M::IndirectAck { target: contact(&mut buf)?, probe_number },
            5 => M::ForwardedAck { origin: contact(&mut buf)?, probe_number },
            6 => M::Announce,
            7 => M::Feed,
            8 => M::Gossip,
            9 => M::Broadcast,
            10 => M::TurnUndead,
            _ => return Err(BadPacket),
        };
        let src = Contact { node: src, incarnation: src_life, address: src_address };
        let dst = Contact { node: dst, incarnation: dst_life, address: None };
        Ok(foca::Header { src, src_incarnation, dst, message })
    }

    fn encode_member(&mut self, member: &foca::Member<Contact>, mut buf: impl BufMut) -> Result<(), BadPacket> {
        let mut bytes = Vec::with_capacity(48);
        put_contact(&mut bytes, member.id());
        bytes.extend_from_slice(&member.incarnation().to_le_bytes());
        bytes.push(match member.state() {
            foca::State::Alive => 0,
            foca::State::Suspect => 1,
            foca::State::Down => 2,
        });
        put_whole(&bytes, &mut buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<foca::Member<Contact>, BadPacket> {
        let contact = contact(&mut buf)?;
        let refutations = buf.try_get_u16_le()?;
        let state = match buf.try_get_u8()? {
            0 => foca::State::Alive,
            1 => foca::State::Suspect,
            2 => foca::State::Down,
            _ => return Err(BadPacket),
        };
        Ok(foca::Member::new(contact, refutations, state))
    }
}

/// All or nothing, as foca asks for.
fn put_whole(bytes: &[u8], buf: &mut impl BufMut) -> Result<(), BadPacket> {
    if buf.remaining_mut() < bytes.len() {
        return Err(BadPacket);
    }
    buf.put_slice(bytes);
    Ok(())
}

fn put_contact(bytes: &mut Vec<u8>, contact: &Contact) {
    bytes.extend_from_slice(&contact.node.0);
    put_incarnation(bytes, contact.incarnation);
    put_address(bytes, contact.address);
}

fn contact(buf: &mut impl Buf) -> Result<Contact, BadPacket> {
    Ok(Contact { node: node(buf)?, incarnation: incarnation(buf)?, address: address(buf)? })
}

fn node(buf: &mut impl Buf) -> Result<NodeId, BadPacket> {
    let mut id = [0; 16];
    buf.try_copy_to_slice(&mut id)?;
    Ok(NodeId(id))
}

fn put_incarnation(bytes: &mut Vec<u8>, incarnation: Incarnation) {
    bytes.extend_from_slice(&incarnation.0.min(Incarnation::MAX.0).to_le_bytes()[..6]);
}

fn incarnation(buf: &mut impl Buf) -> Result<Incarnation, BadPacket> {
    Ok(Incarnation(buf.try_get_uint_le(6)?))
}

fn put_address(bytes: &mut Vec<u8>, address: Option<SocketAddr>) {
    let Some(address) = address else {
        bytes.push(0);
        return;
    };
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend_from_slice(&ip.octets());
        }
    }
    bytes.extend_from_slice(&address.port().to_le_bytes());
}

fn address(buf: &mut impl Buf) -> Result<Option<SocketAddr>, BadPacket> {
    let ip: IpAddr = match buf.try_get_u8()? {
        0 => return Ok(None),
        4 => {
            let mut octets = [0; 4];
            buf.try_copy_to_slice(&mut octets)?;
            octets.into()
        }
        6 => {
            let mut octets = [0; 16];
            buf.try_copy_to_slice(&mut octets)?;
            octets.into()
        }
        _ => return Err(BadPacket),
    };
    Ok(Some(SocketAddr::new(ip, buf.try_get_u16_le()?)))
}

#[cfg(test)]
mod tests;
