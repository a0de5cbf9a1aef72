//! Which hosts are remembered as unreachable or busy (R5a). Decisions only: times and chance are arguments, the requests
//! that probe are sent by others.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;

use crate::classify::Url;
use crate::fault::Fault;
use crate::os::clock::Timestamp;

const HOSTS_MAX: usize = 1024;

/// Waits between probes double from the first to the last.
const PROBE_FIRST: Duration = Duration::from_secs(1);
const PROBE_LAST: Duration = Duration::from_secs(30);

/// A probe that has said nothing for so long counts as lost.
const PROBE_LOST: Duration = Duration::from_secs(60);

/// Probes begun in one go.
const PROBES_MAX: usize = 16;

/// A host that nobody has asked for in this time is forgotten rather than probed for ever.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Longest that a `Retry-After` is believed.
pub(super) const BUSY_MAX: Duration = Duration::from_secs(300);

/// `host:port`.
pub(super) type Host = String;

#[derive(Default)]
pub(super) struct Health(Mutex<HashMap<Host, Trouble>>);

struct Trouble {
    fault: Fault,
    since: Timestamp,
    /// When somebody last wanted to know or failed.
    asked: Timestamp,
    state: State,
}

enum State {
    Unreachable(Box<Probing>),
    /// It asked to be left alone (429 or 503 with `Retry-After`).
    Busy {
        until: Timestamp,
    },
}

struct Probing {
    probe: Probe,
    next: Timestamp,
    wait: Duration,
}

/// What to ask to learn whether a host is back: the request that failed, for its head alone.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    pub(super) url: Url,
    pub(super) fields: HeaderMap,
    /// How many probes of this host came before.
    pub(super) attempt: u32,
}

/// A server that has sent wrong bytes is asked last for so long.
const DISTRUST: Duration = Duration::from_secs(600);

/// Who has sent bytes that are not what the repository's metadata names: others are asked first (R8f). It answers, so that it is
/// not down; what only it has still comes from it.
#[derive(Default)]
pub(super) struct Distrusted(Mutex<HashMap<Host, (Fault, Timestamp)>>);

impl Distrusted {
    pub(super) fn blame(&self, host: Host, fault: &Fault, now: Timestamp) {
        let mut hosts = self.hosts(now);
        if hosts.len() < HOSTS_MAX {
            hosts.insert(host, (fault.clone(), now));
        }
    }

    pub(super) fn is(&self, host: &str, now: Timestamp) -> bool {
        self.hosts(now).contains_key(host)
    }

    pub(super) fn list(&self, now: Timestamp) -> Vec<HostHealth> {
        let line = |(host, (fault, since)): (&Host, &(Fault, Timestamp))| HostHealth {
            host: host.clone(),
            fault: fault.to_string(),
            down_since: *since,
        };
        self.hosts(now).iter().map(line).collect()
    }

    fn hosts(&self, now: Timestamp) -> MutexGuard<'_, HashMap<Host, (Fault, Timestamp)>> {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, (_, since)| now.since(*since) < DISTRUST);
        hosts
    }
}

/// A line of `status`.
#[derive(Debug, Clone)]
pub struct HostHealth {
    pub host: String,
    pub fault: String,
    pub down_since: Timestamp,
}

impl Health {
    /// Why a host is not worth trying now.
    pub(super) fn down(&self, host: &str, now: Timestamp) -> Option<Fault> {
        let mut hosts = self.hosts();
        let trouble = hosts.get_mut(host)?;
        if matches!(trouble.state, State::Busy { until } if until <= now) {
            hosts.remove(host);
            return None;
        }
        trouble.asked = now;
        Some(trouble.fault.clone())
    }

    /// A request could not reach the host.
    pub(super) fn failed(
        &self,
        host: Host,
        fault: &Fault,
        url: &Url,
        fields: impl FnOnce() -> HeaderMap,
        now: Timestamp,
    ) {
        let mut hosts = self.hosts();
        match hosts.get_mut(&host) {
            Some(Trouble { fault: known, state: State::Unreachable(_), .. }) => *known = fault.clone(),
            _ => {
                let probe = Probe { url: url.clone(), fields: fields(), attempt: 0 };
                let state = State::Unreachable(Box::new(Probing { probe, next: now + PROBE_FIRST, wait: PROBE_FIRST }));
                insert(&mut hosts, host, Trouble { fault: fault.clone(), since: now, asked: now, state });
            }
        }
    }

    /// The host answered that it wants to be left alone for `wait`.
    pub(super) fn busy(&self, host: Host, fault: Fault, wait: Duration, now: Timestamp) {
        let state = State::Busy { until: now + wait.min(BUSY_MAX) };
        insert(&mut self.hosts(), host, Trouble { fault, since: now, asked: now, state });
    }

    /// The host has answered, whatever it said.
    pub(super) fn reached(&self, host: &str) {
        let mut hosts = self.hosts();
        if !hosts.is_empty() {
            hosts.remove(host);
        }
    }

    /// Probes to be sent now; of each the outcome is reported by [`Self::reached`] or [`Self::probed`].
    pub(super) fn due(&self, now: Timestamp) -> Vec<(Host, Probe)> {
        let mut hosts = self.hosts();
        hosts.retain(|_, trouble| match trouble.state {
            State::Unreachable(_) => now.since(trouble.asked) < FORGOTTEN_AFTER,
            State::Busy { until } => now < until,
        });
        let due = |(host, trouble): (&Host, &mut Trouble)| match &mut trouble.state {
            State::Unreachable(probing) if probing.next <= now => {
                probing.next = now + PROBE_LOST;
                Some((host.clone(), probing.probe.clone()))
            }
            _ => None,
        };
        hosts.iter_mut().filter_map(due).take(PROBES_MAX).collect()
    }

    /// A probe found the host still unreachable; the next one follows after up to a quarter more than twice the wait,
    /// by chance, so that many nodes do not knock at once.
    pub(super) fn probed(&self, host: &str, now: Timestamp, chance: u8) {
        if let Some(Trouble { state: State::Unreachable(probing), .. }) = self.hosts().get_mut(host) {
            probing.wait = (probing.wait * 2).min(PROBE_LAST);
            probing.next = now + probing.wait + probing.wait * u32::from(chance) / 1024;
            probing.probe.attempt += 1;
        }
    }

    pub(super) fn list(&self) -> Vec<HostHealth> {
        let line = |(host, trouble): (&Host, &Trouble)| HostHealth {
            host: host.clone(),
            fault: trouble.fault.to_string(),
            down_since: trouble.since,
        };
        let mut list: Vec<_> = self.hosts().iter().map(line).collect();
        list.sort_unstable_by(|a, b| a.host.cmp(&b.host));
        list
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<Host, Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room by forgetting whom nobody has asked for the longest.
fn insert(hosts: &mut HashMap<Host, Trouble>, host: Host, trouble: Trouble) {
    if hosts.len() >= HOSTS_MAX && !hosts.contains_key(&host) {
        let stalest = hosts.iter().min_by_key(|(_, trouble)| trouble.asked).map(|(host, _)| host.clone());
        stalest.and_then(|host| hosts.remove(&host));
    }
    hosts.insert(host, trouble);
}

/// How long a `Retry-After` says (RFC 9110 section 10.2.3): seconds, or a date.
pub(super) fn retry_after(fields: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = fields.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => BUSY_MAX,
        Err(_) => Timestamp::from_system_time(httpdate::parse_http_date(value).ok()?).since(now),
    };
    Some(wait.min(BUSY_MAX)).filter(|wait| !wait.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1000 * seconds)
    }

    #[test]
    fn who_sent_wrong_bytes_is_distrusted_for_a_while() {
        let distrusted = Distrusted::default();
        distrusted.blame("a:80".into(), &Fault::internal("wrong"), at(0));
        assert!(distrusted.is("a:80", at(599)) && !distrusted.is("b:80", at(1)));
        assert_eq!(distrusted.list(at(1)).len(), 1);
        assert!(!distrusted.is("a:80", at(600)));
    }

    fn fail(health: &Health, host: &str, now: Timestamp) {
        let url = Url::parse(&format!("http://{host}/")).unwrap();
        health.failed(host.into(), &Fault::internal("x"), &url, HeaderMap::new, now);
    }

    #[test]
    fn remembered_until_reached_and_probed_ever_more_rarely() {
        let health = Health::default();
        fail(&health, "a:80", at(0));
        assert!(health.down("a:80", at(0)).is_some() && health.down("b:80", at(0)).is_none());
        let mut probes = Vec::new();
        for s in 0..120 {
            for (host, probe) in health.due(at(s)) {
                assert_eq!((&*host, probe.attempt as usize), ("a:80", probes.len()));
                fail(&health, "a:80", at(s));
                health.probed(&host, at(s), 0);
                probes.push(s);
            }
        }
        assert_eq!(probes, [1, 3, 7, 15, 31, 61, 91]);
        health.reached("a:80");
        assert!(health.down("a:80", at(120)).is_none());
    }

    #[test]
    fn one_probe_at_a_time_but_a_lost_one_is_replaced() {
        let health = Health::default();
        fail(&health, "a:80", at(0));
        assert_eq!(health.due(at(1)).len(), 1);
        assert!(health.due(at(50)).is_empty());
        assert_eq!(health.due(at(61)).len(), 1);
    }

    #[test]
    fn chance_spreads_probes_by_a_quarter_at_most() {
        let next = |chance| {
            let health = Health::default();
            fail(&health, "a:80", at(0));
            health.due(at(1));
            health.probed("a:80", at(1), chance);
            (0..10_000).find(|ms| !health.due(Timestamp(1000 + ms)).is_empty()).unwrap()
        };
        assert_eq!(next(0), 2000);
        assert!((2400..=2500).contains(&next(255)));
    }

    #[test]
    fn whom_nobody_asks_for_is_forgotten() {
        let health = Health::default();
        fail(&health, "a:80", at(0));
        fail(&health, "b:80", at(0));
        assert!(health.down("b:80", at(500)).is_some());
        health.due(at(601));
        assert_eq!(health.list().iter().map(|h| &*h.host).collect::<Vec<_>>(), ["b:80"]);
    }

    #[test]
    fn busy_hosts_are_left_alone_for_a_bounded_time_and_not_probed() {
        let health = Health::default();
        health.busy("a:80".into(), Fault::internal("503"), Duration::from_secs(86_400), at(0));
        assert!(health.due(at(299)).is_empty() && health.down("a:80", at(299)).is_some());
        assert!(health.down("a:80", at(300)).is_none() && health.list().is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let health = Health::default();
        for i in 0..2 * HOSTS_MAX as u64 {
            fail(&health, &format!("h{i}:80"), at(i));
        }
        assert_eq!(health.list().len(), HOSTS_MAX);
        assert!(health.down("h0:80", at(9999)).is_none() && health.down("h2047:80", at(9999)).is_some());
    }

    #[test]
    fn retry_after_in_both_forms() {
        let wait = |value: &str| {
            let fields = HeaderMap::from_iter([(http::header::RETRY_AFTER, value.parse().unwrap())]);
            retry_after(&fields, at(784_111_700)).map(|d| d.as_secs())
        };
        for (value, expected) in [
            ("10", Some(10)),
            ("0", None),
            ("99999999999999999999999", Some(300)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(77)),
            ("Sun, 06 Nov 1993 08:49:37 GMT", None),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(wait(value), expected, "{value:?}");
        }
    }
}
