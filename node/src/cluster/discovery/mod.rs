//! Where other nodes may be: what multicast DNS announces, what the configuration names, and what was good before. All of it
//! is a hint and proves nothing; who is somebody is said by certificates, and who is gone by the members themselves.

mod interfaces;
mod mdns;
mod remembered;
mod seeds;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use imirror_protocol::NodeId;
use imirror_protocol::token::SiteId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::os::tasks;

pub(super) use interfaces::own_addresses;

/// Candidates that wait to be taken. While nobody takes them nothing is lost: whoever finds more waits.
const WAITING_MAX: usize = 256;

/// How soon a new address of this machine is noticed.
const ADDRESSES_EVERY: Duration = Duration::from_secs(2);

/// What others are told of this node. None of it is secret.
#[derive(Debug, Clone, Copy)]
pub struct Announcement {
    pub node: NodeId,
    pub site: SiteId,
    /// Where peers are listened for; an unspecified address means all of this machine's.
    pub listen: SocketAddr,
    /// Where clients are served, for those that look for a proxy themselves; `None`: they are not to find this node.
    pub client_port: Option<u16>,
}

/// Where to look for others.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub mdns: bool,
    /// `HOST:PORT` each, as [`crate::config::Site`] has them.
    pub seeds: Vec<String>,
    /// Keeps what was good for the next start; in a folder that is there.
    pub remembered_file: PathBuf,
}

/// Somebody may be at `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub address: SocketAddr,
    /// Who is said to be there.
    pub peer: Option<NodeId>,
    pub how: How,
}

/// Who said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Mdns,
    Seed,
    Remembered,
}

/// The search; it ends when this is dropped, or nobody takes what it finds.
#[derive(Debug)]
pub struct Discovery {
    good: watch::Sender<Vec<SocketAddr>>,
    addresses: watch::Receiver<Vec<SocketAddr>>,
    leaving: watch::Sender<bool>,
    mdns: Option<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Discovery {
    /// Begins to look, and to announce this node where `wanted.mdns` says so. What is found comes more than once, and a node
    /// under each of its addresses. Needs a runtime.
    pub fn start(announcement: Announcement, wanted: Wanted) -> (Self, mpsc::Receiver<Candidate>) {
        let (found, candidates) = mpsc::channel(WAITING_MAX);
        let (good, told) = watch::channel(Vec::new());
        let (leaving, left) = watch::channel(false);
        let (tell, addresses) = watch::channel(own_addresses(announcement.listen));
        let port = announcement.listen.port();
        let mut tasks: Vec<_> =
            wanted.seeds.into_iter().map(|seed| tasks::spawn("seed", seeds::run(seed, port, found.clone()))).collect();
        tasks.push(tasks::spawn("remembered", remembered::run(wanted.remembered_file, told, found.clone())));
        tasks.push(tasks::spawn("addresses", watch_addresses(announcement.listen, tell)));
        let own = addresses.clone();
        let mdns = wanted.mdns.then(|| tasks::spawn("mdns", mdns::run(announcement, own, found, left)));
        (Self { good, addresses, leaving, mdns, tasks }, candidates)
    }

    /// These are the addresses at which members answer now: the next start tries them.
    pub fn remember(&self, addresses: &[SocketAddr]) {
        self.good.send_replace(addresses.to_vec());
    }

    /// The addresses at which others reach this node, best first, as they change. Link-local ones are not among them.
    pub fn addresses(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.addresses.clone()
    }

    /// Takes back what was announced, so that nobody comes in vain; takes a second at most.
    pub async fn leave(mut self) {
        self.leaving.send_replace(true);
        if let Some(mdns) = self.mdns.take() {
            let _ = mdns.await;
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.tasks.iter().chain(&self.mdns).for_each(JoinHandle::abort);
    }
}

/// For a program that looks for a node's door for clients and is no node itself: the first that is announced on this machine's
/// links and that `serves`. Blocks for `patience` at most, while `serves` does not.
pub fn proxy(patience: Duration, serves: impl FnMut(SocketAddr) -> bool) -> Option<SocketAddr> {
    mdns::proxy(patience, serves)
}

/// The links of this machine on which other nodes are looked for.
pub fn links() -> Vec<String> {
    interfaces::links()
}

async fn watch_addresses(listen: SocketAddr, tell: watch::Sender<Vec<SocketAddr>>) {
    loop {
        tokio::time::sleep(ADDRESSES_EVERY).await;
        let now = own_addresses(listen);
        tell.send_if_modified(|told| {
            let changed = *told != now;
            *told = now;
            changed
        });
    }
}
