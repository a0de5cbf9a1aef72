//! Happy Eyeballs (RFC 8305): the addresses of a host are tried one after the other with a short head start each, IPv6
//! and IPv4 in turn, and the first connection wins.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;

use crate::fault::{Cause, Fault};

/// The head start of an address before the next one is tried too (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to one of the addresses; the caller bounds the time.
///
/// # Errors
/// `Refused` if all that answered refused, else `NoConnection`.
pub(super) async fn dial(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), Fault> {
    race(interleave(addresses), |address| async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    })
    .await
}

/// The families in turn, starting with that of the first address, otherwise in the given order.
fn interleave(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        addresses.iter().copied().partition(|a: &SocketAddr| a.is_ipv6() == first_is_v6);
    let mut order = VecDeque::with_capacity(addresses.len());
    while !first.is_empty() || !second.is_empty() {
        order.extend(first.pop_front());
        order.extend(second.pop_front());
    }
    order
}

async fn race<T, F>(mut waiting: VecDeque<SocketAddr>, dial: impl Fn(SocketAddr) -> F) -> Result<(T, SocketAddr), Fault>
where
    F: Future<Output = io::Result<T>>,
{
    let attempt = |address| {
        let dialling = dial(address);
        async move { (address, dialling.await) }
    };
    let mut running = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        match waiting.pop_front() {
            Some(address) => running.push(attempt(address)),
            None if running.is_empty() => return Err(worst(failures)),
            None => {}
        }
        tokio::select! {
            Some((address, outcome)) = running.next() => match outcome {
                Ok(stream) => return Ok((stream, address)),
                Err(error) => failures.push(dial_fault(address, &error)),
            },
            () = tokio::time::sleep(STAGGER), if !waiting.is_empty() => {}
        }
    }
}

/// One fault for all: "refused" only when nothing else happened, since another address may yet come to life.
fn worst(mut failures: Vec<Fault>) -> Fault {
    let other = failures.iter().position(|f| !matches!(f.cause, Cause::Refused { .. }));
    match (other, failures.is_empty()) {
        (_, true) => Fault::internal("no address to connect to"),
        (Some(index), _) => failures.swap_remove(index),
        (None, _) => failures.swap_remove(0),
    }
}

fn dial_fault(address: SocketAddr, error: &io::Error) -> Fault {
    let address = address.to_string().into();
    Fault::new(match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::Refused { address },
        _ => Cause::NoConnection { address, detail: error.to_string().into() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let list = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.0.0.1:1", "1.0.0.2:1"]);
        let expected = addresses(&["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "[::3]:1"]);
        assert_eq!(interleave(&list), expected);
        assert!(interleave(&[]).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_only_costs_its_head_start() {
        let list = addresses(&["[::1]:1", "1.0.0.1:1"]);
        let start = tokio::time::Instant::now();
        let dialled = Mutex::new(Vec::new());
        let (_, winner) = race(list.clone().into(), |address| {
            dialled.lock().unwrap().push((address, start.elapsed()));
            async move {
                match address.is_ipv6() {
                    true => std::future::pending().await,
                    false => Ok(()),
                }
            }
        })
        .await
        .unwrap();
        assert_eq!(winner, list[1]);
        let dialled = dialled.into_inner().unwrap();
        assert_eq!(dialled[0], (list[0], Duration::ZERO));
        assert!(dialled[1].1 >= STAGGER && dialled[1].1 < STAGGER * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_at_once_and_the_fault_tells_the_most() {
        let list = addresses(&["1.0.0.1:1", "1.0.0.2:1", "1.0.0.3:1"]);
        let start = tokio::time::Instant::now();
        let fail = |kinds: [io::ErrorKind; 3]| {
            let list = list.clone();
            async move {
                race(list.clone().into(), |address| {
                    let index = list.iter().position(|a| *a == address).unwrap();
                    async move { Err::<(), _>(io::Error::from(kinds[index])) }
                })
                .await
                .unwrap_err()
                .label()
            }
        };
        use io::ErrorKind::{ConnectionRefused, HostUnreachable};
        assert_eq!(fail([ConnectionRefused; 3]).await, "refused");
        assert_eq!(fail([ConnectionRefused, HostUnreachable, ConnectionRefused]).await, "no-connection");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
