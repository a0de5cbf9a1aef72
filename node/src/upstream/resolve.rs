//! Names to addresses. The last good answer is kept for a resolver that fails (FAULTS 61): a name is resolved to dial
//! it, and only the dialled address is checked, so an old answer can at worst fail to connect.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::destination::{Host, classify_host};
use crate::fault::{Cause, Fault};
use crate::os::clock::{Clock, Timestamp};
use crate::os::tasks;

/// Names remembered.
const NAMES_MAX: usize = 1024;

/// Addresses kept of one name.
const ADDRESSES_MAX: usize = 16;

/// Look-ups at the same time: each holds a thread of the blocking pool, some for as long as the resolver is patient.
const LOOKUPS_MAX: usize = 32;

/// For so long an answer is used without asking again: a burst of connections costs one look-up.
const CURRENT: Duration = Duration::from_secs(10);

/// How long a look-up may take when there is an older answer to fall back on.
const PATIENCE_WITH_FALLBACK: Duration = Duration::from_secs(1);

/// All addresses of a name; blocks.
type System = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Resolver {
    system: System,
    known: Arc<Mutex<HashMap<Arc<str>, Known>>>,
    lookups: Arc<Semaphore>,
    clock: Clock,
}

#[derive(Debug, Clone)]
struct Known {
    addresses: Vec<IpAddr>,
    at: Timestamp,
}

impl Resolver {
    /// Asks the machine's own resolver.
    pub(super) fn new(clock: Clock) -> Self {
        Self::asking(Arc::new(|name| Ok((name, 0).to_socket_addrs()?.map(|a| a.ip()).collect())), clock)
    }

    pub(super) fn asking(system: System, clock: Clock) -> Self {
        Self { system, known: Arc::default(), lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)), clock }
    }

    /// All addresses of a host, in the resolver's order.
    ///
    /// # Errors
    /// `NameNotFound`.
    pub(super) async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Fault> {
        match classify_host(host) {
            Host::Address(address) => return Ok(vec![address]),
            Host::Nonsense => return Err(not_found(host, "it is no address")),
            Host::Name => {}
        }
        let known = self.lock().get(host).cloned();
        let Some(known) = known else {
            return self.look_up(host).await;
        };
        if self.is_current(&known) {
            return Ok(known.addresses);
        }
        match tokio::time::timeout(PATIENCE_WITH_FALLBACK, self.look_up(host)).await {
            Ok(Ok(addresses)) => Ok(addresses),
            _ => Ok(known.addresses),
        }
    }

    async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, Fault> {
        let permit = self.lookups.clone().acquire_owned().await;
        // Who had to wait for a place may have waited for this very name.
        let known = self.lock().get(host).cloned();
        if let Some(known) = known.filter(|known| self.is_current(known)) {
            return Ok(known.addresses);
        }
        let (name, resolver) = (host.to_owned(), self.clone());
        let found = tasks::blocking("resolve", move || {
            let found = resolver.ask_system(&name);
            // The place is given up when the thread is free, not when nobody waits any more, and only then: the next one
            // must find what has been remembered.
            drop(permit);
            found
        });
        found.await.unwrap_or_else(|_| Err(Fault::internal("the look-up was cut off")))
    }

    /// Blocks.
    fn ask_system(&self, host: &str) -> Result<Vec<IpAddr>, Fault> {
        let mut addresses = (self.system)(host).map_err(|error| not_found(host, &error.to_string()))?;
        if addresses.is_empty() {
            return Err(not_found(host, "it has no address"));
        }
        addresses.truncate(ADDRESSES_MAX);
        self.remember(host, &addresses);
        Ok(addresses)
    }

    fn is_current(&self, known: &Known) -> bool {
        self.clock.now().since(known.at) < CURRENT
    }

    fn remember(&self, host: &str, addresses: &[IpAddr]) {
        let at = self.clock.now();
        let mut known = self.lock();
        if known.len() >= NAMES_MAX && !known.contains_key(host) {
            let oldest = known.iter().min_by_key(|(_, k)| k.at).map(|(h, _)| h.clone());
            oldest.and_then(|host| known.remove(&host));
        }
        let addresses = addresses.to_vec();
        known.insert(host.into(), Known { addresses, at });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(host: &str, detail: &str) -> Fault {
    Fault::new(Cause::NameNotFound { host: host.into(), detail: detail.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn addresses_need_no_look_up_and_unknown_names_are_a_fault() {
        let resolver = Resolver::new(Clock::manual(Timestamp(0)));
        assert_eq!(resolver.resolve("127.1").await.unwrap(), [IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(resolver.resolve("1.2.3.4.5").await.unwrap_err().label(), "name-not-found");
        assert_eq!(resolver.resolve("nowhere.invalid").await.unwrap_err().label(), "name-not-found");
    }

    #[tokio::test]
    async fn the_last_good_answer_stands_in_for_a_resolver_that_fails() {
        let clock = Clock::manual(Timestamp(0));
        let resolver = Resolver::new(clock.clone());
        let address = IpAddr::from([192, 0, 2, 7]);
        resolver.remember("gone.invalid", &[address]);
        clock.advance(CURRENT * 2);
        assert_eq!(resolver.resolve("gone.invalid").await.unwrap(), [address]);
    }

    #[tokio::test]
    async fn many_who_ask_at_once_cost_few_look_ups() {
        let (count, address) = (Arc::new(AtomicUsize::new(0)), IpAddr::from([192, 0, 2, 7]));
        let counted = count.clone();
        let system = Arc::new(move |_: &str| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(vec![address; 100])
        });
        let resolver = Resolver::asking(system, Clock::manual(Timestamp(0)));
        let all = futures_util::future::join_all((0..500).map(|_| resolver.resolve("a.example.org"))).await;
        assert!(all.iter().all(|found| found.as_ref().unwrap().len() == ADDRESSES_MAX));
        assert!((1..=LOOKUPS_MAX).contains(&count.load(Ordering::SeqCst)));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_name_goes_first() {
        let clock = Clock::manual(Timestamp(0));
        let resolver = Resolver::new(clock.clone());
        for i in 0..=NAMES_MAX {
            resolver.remember(&format!("host{i}.example.org"), &[IpAddr::from([192, 0, 2, 1])]);
            clock.advance(Duration::from_millis(1));
        }
        assert_eq!(resolver.lock().len(), NAMES_MAX);
        assert!(!resolver.lock().contains_key("host0.example.org"));
    }
}
