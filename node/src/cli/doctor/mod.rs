//! Looks for what may keep a node from working; each finding says what, why and what to do. Changes nothing.

mod network;

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::screen::bytes;
use crate::config::Config;
use crate::os::clock::Clock;
use crate::os::disk::{self, Space};
use crate::repos::signature;

/// Connections on the way out and files that are sent take this many, with room to spare.
const FILES_MIN: u64 = 16 * 1024;

/// QUIC loses packets with less.
const UDP_BUFFER_MIN: u64 = 4 << 20;

/// Nodes that are tried, how long each is waited for, and how often a packet may get lost.
const OTHERS_MAX: usize = 8;
const UDP_PATIENCE: Duration = Duration::from_millis(500);
const UDP_TRIES: usize = 2;

/// The year this was written: an earlier clock cannot be right.
const CLOCK_MIN_SECONDS: u64 = 1_767_225_600;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
pub(super) struct Finding {
    what: &'static str,
    verdict: Verdict,
    /// What was found, and why it matters.
    found: String,
    /// What to do; empty when all is well.
    advice: &'static str,
}

/// All findings, in the order in which a node needs the things.
pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let is_running = UnixStream::connect(&config.socket).is_ok();
    let mut findings = vec![
        folder("cache folder", &config.cache_dir),
        folder("state folder", &config.state_dir),
        room(existing(&config.cache_dir).and_then(|folder| disk::space(folder).ok())),
        port(config, is_running),
        files(rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum),
        clock(Clock::system().now().unix_seconds()),
        roots(),
        names(config, &std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        parent(config),
        udp_buffers(std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default().trim().parse().ok()),
        network::multicast(config),
        network::firewall(config),
        between_nodes(&others(config)),
    ];
    findings.extend(config.repos.iter().filter_map(|(name, repo)| Some(keyring(name, repo.keyring.as_deref()?))));
    findings
}

fn keyring(name: &str, path: &Path) -> Finding {
    match signature::examine(path) {
        Ok(()) => ok("keyring", format!("signatures of {name} can be checked with {}", path.display())),
        Err(why) => fail("keyring", format!("{name}: {why}"), "without it nothing new of this repository is served"),
    }
}

pub(super) fn is_well(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.verdict != Verdict::Fail)
}

pub(super) fn screen(findings: &[Finding]) -> String {
    let lines = findings.iter().map(|finding| {
        let mark = match finding.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let advice = match finding.advice {
            "" => String::new(),
            advice => format!("{:22}{advice}\n", ""),
        };
        format!("{mark}  {:<15} {}\n{advice}", finding.what, finding.found)
    });
    lines.collect()
}

fn ok(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { what, verdict: Verdict::Ok, found: found.into(), advice: "" }
}

fn warn(what: &'static str, found: impl Into<String>, advice: &'static str) -> Finding {
    Finding { what, verdict: Verdict::Warn, found: found.into(), advice }
}

fn fail(what: &'static str, found: impl Into<String>, advice: &'static str) -> Finding {
    Finding { what, verdict: Verdict::Fail, found: found.into(), advice }
}

/// The folder, or the nearest one above it that there is.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|folder| folder.is_dir())
}

fn folder(what: &'static str, path: &Path) -> Finding {
    let shown = path.display();
    let advice = "make it writable for the user that runs imirror, or set another one in the configuration";
    if path.exists() && !path.is_dir() {
        return fail(what, format!("{shown} is no folder"), advice);
    }
    let Some(nearest) = existing(path) else { return fail(what, format!("{shown} cannot be reached"), advice) };
    let writable = rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    match writable {
        Ok(()) if nearest == path => ok(what, format!("{shown} is writable")),
        Ok(()) => ok(what, format!("{shown} will be made")),
        Err(error) => fail(what, format!("{} cannot be written by this user: {error}", nearest.display()), advice),
    }
}

fn room(space: Option<Space>) -> Finding {
    let advice = "free some room, or set `cache_dir` to a larger file system: a part is always left to others";
    match space {
        None => fail("room", "the file system of the cache folder says nothing", "see the cache folder above"),
        Some(space) if space.free > 2 * space.reserve() => ok("room", format!("{} free", bytes(space.free))),
        Some(space) if space.free > space.reserve() => warn("room", format!("only {} free", bytes(space.free)), advice),
        Some(space) => fail("room", format!("{} free: nothing more can be stored", bytes(space.free)), advice),
    }
}

fn port(config: &Config, is_running: bool) -> Finding {
    let listen = config.listen;
    if is_running {
        return ok("port", format!("a node is running and listens on {listen}"));
    }
    match TcpListener::bind(listen) {
        Ok(_) => ok("port", format!("{listen} is free")),
        Err(error) => {
            let advice = "stop the other program (apt-cacher-ng has the same port), or set another `listen`";
            fail("port", format!("{listen}: {error}"), advice)
        }
    }
}

fn files(most: Option<u64>) -> Finding {
    match most {
        Some(most) if most < FILES_MIN => {
            let advice = "raise the limit: LimitNOFILE=65536 in the unit, or `ulimit -n 65536`";
            warn("open files", format!("at most {most}: too few for many clients"), advice)
        }
        Some(most) => ok("open files", format!("at most {most}")),
        None => ok("open files", "no limit"),
    }
}

fn clock(now_seconds: u64) -> Finding {
    if now_seconds >= CLOCK_MIN_SECONDS {
        return ok("clock", "plausible");
    }
    fail("clock", "it is years behind: certificates are checked against it", "set it: `timedatectl set-ntp true`")
}

fn roots() -> Finding {
    let found = rustls_native_certs::load_native_certs();
    certificates(found.certs.len(), found.errors.first().map(ToString::to_string))
}

fn certificates(count: usize, error: Option<String>) -> Finding {
    match count {
        0 => {
            let advice = "install the package ca-certificates, or set SSL_CERT_FILE";
            let why = error.map(|error| format!(" ({error})")).unwrap_or_default();
            fail("CA certificates", format!("none were found{why}: https upstreams fail"), advice)
        }
        count => ok("CA certificates", format!("{count} found")),
    }
}

fn names(config: &Config, resolv_conf: &str) -> Finding {
    let servers = resolv_conf.lines().filter(|line| line.trim_start().starts_with("nameserver")).count();
    match (servers, &config.upstream.proxy) {
        (0, None) => {
            let advice = "name a server in /etc/resolv.conf, or set `[upstream] proxy`: a parent proxy resolves itself";
            warn("name servers", "/etc/resolv.conf has none: mirrors may not be found", advice)
        }
        (0, Some(_)) => ok("name servers", "none, and none is needed: the parent proxy resolves"),
        (servers, _) => ok("name servers", format!("{servers} configured")),
    }
}

fn parent(config: &Config) -> Finding {
    let Some(proxy) = &config.upstream.proxy else { return ok("parent proxy", "none is configured") };
    let tried = (proxy.host.as_str(), proxy.port).to_socket_addrs().and_then(|addresses| {
        let mut last = std::io::ErrorKind::NotFound.into();
        for address in addresses {
            match TcpStream::connect_timeout(&address, Duration::from_secs(3)) {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    });
    let shown = format!("{}:{}", proxy.host, proxy.port);
    match tried {
        Ok(()) => ok("parent proxy", format!("{shown} accepts connections")),
        Err(error) => {
            let advice = "it is the only way out: start it, or correct `[upstream] proxy` (or http_proxy)";
            fail("parent proxy", format!("{shown}: {error}"), advice)
        }
    }
}

fn udp_buffers(most: Option<u64>) -> Finding {
    match most {
        Some(most) if most >= UDP_BUFFER_MIN => ok("UDP buffers", format!("up to {}", bytes(most))),
        Some(most) => {
            let advice = "only for several nodes: sysctl -w net.core.rmem_max=8388608 net.core.wmem_max=8388608";
            warn("UDP buffers", format!("at most {}: transfers between nodes are slower", bytes(most)), advice)
        }
        None => warn("UDP buffers", "the limit cannot be read", "look at net.core.rmem_max"),
    }
}

/// Where other nodes should be: the seeds, then where they were met.
fn others(config: &Config) -> Vec<SocketAddr> {
    let met = std::fs::read_to_string(config.state_dir.join("peers")).unwrap_or_default();
    let named = config.site.seeds.iter().map(String::as_str).chain(met.lines());
    named.filter_map(|name| name.to_socket_addrs().ok()?.next()).take(OTHERS_MAX).collect()
}

/// Nodes talk by QUIC: a firewall that lets clients through may drop that.
fn between_nodes(others: &[SocketAddr]) -> Finding {
    let by_tcp = |other: &&SocketAddr| TcpStream::connect_timeout(other, UDP_PATIENCE).is_ok();
    let (heard, silent): (Vec<_>, Vec<_>) = others.iter().partition(|other| answers_by_udp(**other));
    match silent.into_iter().find(by_tcp) {
        Some(other) => {
            let advice = "let UDP through on that port, in both directions: without it each node fetches for itself";
            warn("UDP to nodes", format!("{other} answers by TCP but not by UDP"), advice)
        }
        None if others.is_empty() => ok("UDP to nodes", "no other node is known"),
        None => ok("UDP to nodes", format!("{} of {} known addresses answer", heard.len(), others.len())),
    }
}

/// Whoever speaks QUIC says which versions it knows to one who comes with another (RFC 9000, 6.1).
fn answers_by_udp(other: SocketAddr) -> bool {
    let asked = || -> std::io::Result<bool> {
        let any: SocketAddr = if other.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.connect(other)?;
        socket.set_read_timeout(Some(UDP_PATIENCE))?;
        // A long header, a version that is reserved for this, two connection ids of eight bytes.
        let mut packet = [0; 1200];
        packet[..6].copy_from_slice(&[0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8]);
        packet[14] = 8;
        for _ in 0..UDP_TRIES {
            socket.send(&packet)?;
            if socket.recv(&mut [0; 1500]).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    asked().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Overrides, Surroundings};

    fn configuration(settings: &[(&str, &str)]) -> Config {
        let here = Surroundings { variables: Default::default(), is_root: false, host: "h".into(), root: "/x".into() };
        let settings = settings.iter().map(|(key, value)| ("--set".into(), (*key).into(), (*value).into())).collect();
        config::load(&Overrides { settings, ..Overrides::default() }, &here).unwrap().config
    }

    #[test]
    fn folders_are_looked_at_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let (missing, file) = (dir.path().join("a/b"), dir.path().join("file"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(folder("x", dir.path()).verdict, Verdict::Ok);
        assert!(folder("x", &missing).found.ends_with("a/b will be made"));
        assert!(!dir.path().join("a").exists());
        assert_eq!(folder("x", &file).verdict, Verdict::Fail);
    }

    #[test]
    fn each_trouble_comes_with_advice() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = taken.local_addr().unwrap().to_string();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = configuration(&[("listen", &listen), ("upstream.proxy", &format!("http://{closed}"))]);
        let direct = configuration(&[]);
        let troubles = [
            port(&config, false),
            parent(&config),
            room(Some(Space { total: 100 << 30, free: 1 << 20 })),
            room(None),
            clock(0),
            certificates(0, None),
        ];
        for finding in &troubles {
            assert!(finding.verdict == Verdict::Fail && !finding.advice.is_empty(), "{finding:?}");
        }
        let silent = [taken.local_addr().unwrap()];
        let doubts = [
            files(Some(1024)),
            names(&direct, "# nothing\n"),
            udp_buffers(Some(212_992)),
            udp_buffers(None),
            between_nodes(&silent),
        ];
        for finding in &doubts {
            assert!(finding.verdict == Verdict::Warn && !finding.advice.is_empty(), "{finding:?}");
        }
        assert!(!is_well(&troubles) && is_well(&doubts));
        let fine = [
            port(&config, true),
            parent(&direct),
            room(Some(Space { total: 100 << 30, free: 50 << 30 })),
            clock(CLOCK_MIN_SECONDS),
            files(Some(65_536)),
            names(&config, ""),
            names(&direct, "nameserver 192.0.2.1\n"),
            udp_buffers(Some(8 << 20)),
            between_nodes(&[]),
            between_nodes(&[closed]),
        ];
        for finding in &fine {
            assert!(finding.verdict == Verdict::Ok && finding.advice.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn the_screen() {
        let findings = [ok("clock", "plausible"), certificates(0, Some("cannot be read".into()))];
        insta::assert_snapshot!(screen(&findings), @r##"
ok    clock           plausible
FAIL  CA certificates none were found (cannot be read): https upstreams fail
                      install the package ca-certificates, or set SSL_CERT_FILE
"##);
    }
}
