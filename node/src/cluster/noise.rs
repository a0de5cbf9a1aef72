//! What comes to the UDP port and is of no node: told from packets of connections before anything is done with it, dropped, counted,
//! and said once.
//!
//! Any packet but the first of a connection carries an identifier that this node has made (RFC 9000, 5.1). Half of it is random, the
//! other half tells that it is of this node, also after a restart, when peers go on for a while as if nothing had happened. Only what
//! ends a connection that its sender has forgotten carries none (10.3): it is let through from where nodes have been met.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, UdpPoller};

use super::endpoint::canonical;
use super::identity::Identity;
use crate::os::entropy;

/// Bytes of a connection's identifier, and of the half of it that is random.
const ID_LEN: usize = 8;
const RANDOM_LEN: usize = 4;

/// Addresses of nodes that are remembered.
const NODES_MAX: usize = 4096;

/// The version of QUIC that all nodes speak; zero is the answer to one that is not spoken (RFC 9000, 17.2.1).
const VERSIONS: [[u8; 4]; 2] = [[0, 0, 0, 1], [0; 4]];

/// Makes identifiers, and knows its own.
#[derive(Clone, Copy)]
pub(super) struct Ids {
    key: [u8; 32],
}

impl Ids {
    pub(super) fn of(identity: &Identity) -> Self {
        let material = [&identity.node.0[..], identity.site.to_string().as_bytes()].concat();
        Self { key: blake3::derive_key("imirror 2026-11 identifiers of connections", &material) }
    }

    fn made(&self, random: [u8; RANDOM_LEN]) -> [u8; ID_LEN] {
        let mut id = [0; ID_LEN];
        id[..RANDOM_LEN].copy_from_slice(&random);
        id[RANDOM_LEN..].copy_from_slice(&blake3::keyed_hash(&self.key, &random).as_bytes()[..ID_LEN - RANDOM_LEN]);
        id
    }

    /// Can it be of a connection, or begin one?
    fn may_be_of_a_node(&self, packet: &[u8]) -> bool {
        const FIXED: u8 = 0x40;
        match packet {
            [first, version @ ..] if first & 0x80 != 0 => VERSIONS.iter().any(|known| version.starts_with(known)),
            [first, rest @ ..] if first & FIXED != 0 => rest.first_chunk::<ID_LEN>().is_some_and(|id| {
                let random = id.first_chunk::<RANDOM_LEN>();
                random.is_some_and(|random| self.made(*random) == *id)
            }),
            _ => false,
        }
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut random = [0; RANDOM_LEN];
        random.copy_from_slice(&entropy::random_bytes()[..RANDOM_LEN]);
        ConnectionId::new(&self.made(random))
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// What was dropped, and from where nothing is.
#[derive(Debug, Default)]
pub struct Noise {
    packets: AtomicU64,
    nodes: Mutex<BTreeSet<SocketAddr>>,
}

impl Noise {
    /// How many packets were dropped.
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// A node of the site has been met there.
    pub(super) fn met(&self, node: SocketAddr) {
        let mut nodes = self.nodes();
        if nodes.len() < NODES_MAX {
            nodes.insert(node);
        }
    }

    fn is_noise(&self, from: SocketAddr) -> bool {
        if self.nodes().contains(&canonical(from)) {
            return false;
        }
        if self.packets.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::info!("UDP packets come that are of no node, the first from {from}; they are dropped and counted");
        }
        true
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeSet<SocketAddr>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket of which only packets come that may be of nodes.
pub(super) struct Quiet {
    pub(super) socket: Arc<dyn AsyncUdpSocket>,
    pub(super) ids: Ids,
    pub(super) noise: Arc<Noise>,
}

impl fmt::Debug for Quiet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

impl Quiet {
    /// Moves what is noise behind the rest; returns how many are left. What came as one is of one sender, and told by its first.
    fn sorted(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta], received: usize) -> usize {
        let mut left = 0;
        for i in 0..received {
            let packet = bufs[i].get(..meta[i].len.min(meta[i].stride)).unwrap_or_default();
            if self.ids.may_be_of_a_node(packet) || !self.noise.is_noise(meta[i].addr) {
                bufs.swap(left, i);
                meta.swap(left, i);
                left += 1;
            }
        }
        left
    }
}

impl AsyncUdpSocket for Quiet {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.socket.poll_recv(cx, bufs, meta))?;
        match self.sorted(bufs, meta, received) {
            // Nothing but noise: others have their turn before the rest of it is looked at.
            0 if received > 0 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            left => Poll::Ready(Ok(left)),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_known_by_who_has_made_it() {
        let (mut own, other) = (Ids { key: [1; 32] }, Ids { key: [2; 32] });
        let id = own.generate_cid();
        assert_ne!(id, own.generate_cid());
        let short = [&[0x41][..], &id, &[7; 20]].concat();
        assert!(own.may_be_of_a_node(&short) && !other.may_be_of_a_node(&short));
        assert!(!own.may_be_of_a_node(&short[..ID_LEN]) && !own.may_be_of_a_node(&[]), "it is cut off");
        assert!(!own.may_be_of_a_node(&[&[0x01], &short[1..]].concat()), "no packet of QUIC");
        assert!(own.may_be_of_a_node(&[0xc0, 0, 0, 0, 1, 8]) && !own.may_be_of_a_node(&[0xc0, 0, 0, 0, 2, 8]));
        assert!(!own.may_be_of_a_node(b"hello, is anybody there?"));
    }
}
