//! Which hosts are remembered as unreachable. Pure but for its lock: times are arguments.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fault::Fault;
use crate::os::clock::Timestamp;

const HOSTS_MAX: usize = 1024;
const PROBE_FIRST: Duration = Duration::from_secs(1);
const PROBE_LAST: Duration = Duration::from_secs(30);

/// `host:port`.
pub(super) type Host = String;

#[derive(Default)]
pub(super) struct Health(Mutex<HashMap<Host, Down>>);

struct Down {
    fault: Fault,
    since: Timestamp,
    next_probe: Timestamp,
    wait: Duration,
}

/// A line of `status`.
#[derive(Debug, Clone)]
pub struct HostHealth {
    pub host: String,
    pub fault: String,
    pub down_since: Timestamp,
}

impl Health {
    pub(super) fn down(&self, host: &str) -> Option<Fault> {
        self.hosts().get(host).map(|down| down.fault.clone())
    }

    pub(super) fn failed(&self, host: Host, fault: &Fault, now: Timestamp) {
        let mut hosts = self.hosts();
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(&host) {
            return;
        }
        let down = hosts.entry(host).or_insert_with(|| Down {
            fault: fault.clone(),
            since: now,
            next_probe: now + PROBE_FIRST,
            wait: PROBE_FIRST,
        });
        down.fault = fault.clone();
    }

    pub(super) fn reached(&self, host: &str) {
        let mut hosts = self.hosts();
        if !hosts.is_empty() {
            hosts.remove(host);
        }
    }

    /// Hosts to be probed now; each is probed again after twice as long.
    pub(super) fn due(&self, now: Timestamp) -> Vec<Host> {
        let mut due = Vec::new();
        for (host, down) in self.hosts().iter_mut().filter(|(_, down)| down.next_probe <= now) {
            down.wait = (down.wait * 2).min(PROBE_LAST);
            down.next_probe = now + down.wait;
            due.push(host.clone());
        }
        due
    }

    pub(super) fn list(&self) -> Vec<HostHealth> {
        let line = |(host, down): (&Host, &Down)| HostHealth {
            host: host.clone(),
            fault: down.fault.to_string(),
            down_since: down.since,
        };
        self.hosts().iter().map(line).collect()
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<Host, Down>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_until_reached_and_probed_ever_more_rarely() {
        let health = Health::default();
        let fault = Fault::internal("x");
        let at = |seconds: u64| Timestamp(1000 * seconds);
        health.failed("a:80".into(), &fault, at(0));
        assert!(health.down("a:80").is_some() && health.down("b:80").is_none());
        let probes: Vec<_> = (0..120).filter(|s| !health.due(at(*s)).is_empty()).collect();
        assert_eq!(probes, [1, 3, 7, 15, 31, 61, 91]);
        health.reached("a:80");
        assert!(health.down("a:80").is_none());
        for i in 0..2 * HOSTS_MAX {
            health.failed(format!("{i}:80"), &fault, at(0));
        }
        assert_eq!(health.list().len(), HOSTS_MAX);
    }
}
