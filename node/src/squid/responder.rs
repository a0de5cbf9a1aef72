//! Answers ICP (RFC 2186, RFC 2187): whether the site has something, in the time that a datagram takes. Asks nobody, neither upstream
//! nor a peer: what peers have is known here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, watch};

use super::icp::{self, Verdict};
use crate::classify::{Url, classify};
use crate::config::{self, Other};
use crate::journey::Journey;
use crate::ledger::Ledger;
use crate::os::{net, tasks};
use crate::repos::Configured;

/// Questions being looked up at the same time; of more it is said at once that they had better be asked elsewhere.
const LOOKUPS_MAX: usize = 256;

/// An answer that takes longer would come too late: a Squid waits some two seconds at most, and each client waits with it.
const PATIENCE: Duration = Duration::from_millis(200);

/// Datagrams that may wait for their turn.
const BUFFER_BYTES: usize = 1 << 20;

/// See the module head.
pub struct Responder {
    pub journey: Journey,
    pub repos: Arc<Configured>,
    pub clients: config::Clients,
    /// What becomes of what is not ours.
    pub other: Other,
    pub ledger: Arc<Ledger>,
    /// Is this node about to stop? Then nobody is to begin anything here.
    pub is_leaving: Box<dyn Fn() -> bool + Send + Sync>,
}

/// A socket for ICP. To be called in a runtime.
///
/// # Errors
/// The address is in use, or none of this machine.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let (socket, _) = net::bind_udp(address, BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

impl Responder {
    /// Answers until `stop` says so.
    pub async fn serve(self: Arc<Self>, socket: UdpSocket, mut stop: watch::Receiver<bool>) {
        let (socket, lookups) = (Arc::new(socket), Arc::new(Semaphore::new(LOOKUPS_MAX)));
        // One byte more, so that what is too long is seen to be.
        let mut buffer = vec![0; icp::LEN_MAX + 1];
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut buffer) => received,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match received {
                Ok((len, from)) => self.received(&socket, &lookups, &buffer[..len], from),
                Err(error) => {
                    // An answer that nobody wanted comes back as an error of the socket; a broken socket must not burn.
                    tracing::debug!(%error, "ICP");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    fn received(
        self: &Arc<Self>,
        socket: &Arc<UdpSocket>,
        lookups: &Arc<Semaphore>,
        datagram: &[u8],
        from: SocketAddr,
    ) {
        let query = match icp::parse(datagram) {
            Ok(query) => query,
            Err(why) => return self.ledger.icp_refused(why.word()),
        };
        let address = from.ip().to_canonical();
        let permitted = self.clients.allow.iter().any(|net| net.contains(&address));
        let url = Url::parse(query.url);
        let (url, permit) = match (permitted, url, lookups.clone().try_acquire_owned()) {
            (false, ..) => return self.say(socket, &query, Verdict::Denied, from),
            (_, Err(_), _) => return self.say(socket, &query, Verdict::Error, from),
            (.., Err(_)) => return self.say(socket, &query, Verdict::MissNoFetch, from),
            (_, Ok(url), Ok(permit)) => (url, permit),
        };
        let (responder, socket, number, text) = (self.clone(), socket.clone(), query.number, query.url.to_owned());
        tasks::spawn("icp", async move {
            let verdict = responder.verdict(&url).await;
            responder.say(&socket, &icp::Query { number, url: &text }, verdict, from);
            drop(permit);
        });
    }

    async fn verdict(&self, url: &Url) -> Verdict {
        let key = self.repos.resolve(url).key;
        let is_kept = classify(&key).class.is_ours() || self.other == Other::Rfc9111;
        let has = async { tokio::time::timeout(PATIENCE, self.journey.has(&key)).await.unwrap_or(false) };
        match is_kept && has.await {
            true => Verdict::Hit,
            false if is_kept && !(self.is_leaving)() => Verdict::Miss,
            false => Verdict::MissNoFetch,
        }
    }

    fn say(&self, socket: &UdpSocket, query: &icp::Query<'_>, verdict: Verdict, to: SocketAddr) {
        self.ledger.icp_answered(verdict.word());
        // Where there is no room for it the answer is lost, as any datagram may be.
        let _ = socket.try_send_to(&icp::answer(query, verdict), to);
    }
}
