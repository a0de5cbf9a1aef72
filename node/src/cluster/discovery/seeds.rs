//! Nodes that the configuration names, for where multicast does not reach.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Candidate, How};
use crate::config::units;
use crate::os::net;

/// A name may get another address, and a node that was down may be back.
const RESOLVED_EVERY: Duration = Duration::from_secs(30);
const RESOLVING_MAX: Duration = Duration::from_secs(10);
/// Addresses of one name.
const ADDRESSES_MAX: usize = 16;

/// Tells the addresses of one seed, again and again, until nobody listens. One that does not resolve is logged once.
pub(super) async fn run(seed: String, own_port: u16, found: mpsc::Sender<Candidate>) {
    let Some((host, port)) = units::seed(&seed) else {
        // The configuration has none such.
        tracing::warn!(seed, "is no host and port");
        return;
    };
    let mut resolves = true;
    loop {
        let looked_up = tokio::time::timeout(RESOLVING_MAX, tokio::net::lookup_host((host.as_str(), port))).await;
        let addresses: Vec<SocketAddr> = match looked_up {
            Ok(Ok(addresses)) => addresses.take(ADDRESSES_MAX).collect(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        if addresses.is_empty() && resolves {
            tracing::warn!(seed, "the name of a seed does not resolve; it is tried again every {RESOLVED_EVERY:?}");
        }
        resolves = !addresses.is_empty();
        for address in addresses {
            // All nodes of a site may have the same list.
            let is_own = address.port() == own_port && net::is_local(address.ip());
            let candidate = Candidate { address, peer: None, how: How::Seed };
            if !is_own && found.send(candidate).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RESOLVED_EVERY) => {}
            () = found.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::tasks;

    #[tokio::test(start_paused = true)]
    async fn a_seed_is_told_every_half_minute() {
        let start = tokio::time::Instant::now();
        let (found, mut heard) = mpsc::channel(1);
        let task = tasks::spawn("seed", run("[2001:db8::2]:4000".into(), 3142, found));
        for after in [0, 30, 60] {
            let candidate = heard.recv().await.unwrap();
            assert_eq!((candidate.address, candidate.how), ("[2001:db8::2]:4000".parse().unwrap(), How::Seed));
            assert_eq!(start.elapsed().as_secs(), after);
        }
        drop(heard);
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_no_seed_of_its_own() {
        let (found, mut heard) = mpsc::channel(8);
        tasks::spawn("own", run("127.0.0.1:3142".into(), 3142, found.clone()));
        tasks::spawn("other", run("127.0.0.1:3143".into(), 3142, found));
        for _ in 0..3 {
            assert_eq!(heard.recv().await.unwrap().address.port(), 3143);
        }
    }
}
