//! Whether other nodes and clients can reach this machine: multicast and the firewall.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Finding, ok, warn};
use crate::cluster::discovery;
use crate::config::Config;

/// Where multicast DNS is spoken (RFC 6762, section 3).
const MDNS: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);

/// Can other nodes be found? Sends one empty query, which nobody answers.
pub(super) fn multicast(config: &Config) -> Finding {
    if !config.site.mdns {
        return judge_multicast(None, config.site.seeds.len());
    }
    let tried = match discovery::links().as_slice() {
        [] => Err("no interface leads to a network that has other machines".to_owned()),
        links => send_query().map(|()| links.join(", ")).map_err(|e| format!("a packet could not be sent: {e}")),
    };
    judge_multicast(Some(tried), config.site.seeds.len())
}

fn send_query() -> std::io::Result<()> {
    // Twelve zeros: a message that asks nothing (RFC 1035, section 4.1.1).
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(&[0; 12], MDNS).map(|_| ())
}

/// `tried`: the interfaces that take multicast, or why none does; `None` when it is switched off.
fn judge_multicast(tried: Option<Result<String, String>>, seeds: usize) -> Finding {
    let advice = "only for several nodes: name one of the others in `[site] seeds`";
    match (tried, seeds) {
        (Some(Ok(links)), _) => ok("multicast", format!("can be sent on {links}")),
        (Some(Err(why)), 0) => warn("multicast", format!("{why}: other nodes are not found by themselves"), advice),
        (Some(Err(why)), _) => ok("multicast", format!("{why}; the seeds are asked instead")),
        (None, 0) => warn("multicast", "switched off, and there are no seeds: other nodes are not found", advice),
        (None, _) => ok("multicast", "switched off; the seeds are asked instead"),
    }
}

/// What filters packets that come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Firewall {
    None,
    Firewalld,
    Ufw,
    /// Rules of nftables or iptables that drop by default what comes in.
    Rules,
    /// They can't be read without being root.
    Hidden,
}

/// Does a firewall of this machine keep others out? Only asks; whether a rule lets the ports through is for people to see.
pub(super) fn firewall(config: &Config) -> Finding {
    judge_firewall(which(), config.listen)
}

fn which() -> Firewall {
    if succeeds("firewall-cmd", &["--state"]) {
        return Firewall::Firewalld;
    }
    if std::fs::read_to_string(Path::new("/etc/ufw/ufw.conf")).is_ok_and(|text| ufw_is_enabled(&text)) {
        return Firewall::Ufw;
    }
    match Command::new("nft").args(["list", "chains"]).stdin(Stdio::null()).output() {
        Ok(told) if told.status.success() && drops_by_default(&String::from_utf8_lossy(&told.stdout)) => {
            Firewall::Rules
        }
        Ok(told) if told.status.success() => Firewall::None,
        Ok(_) => Firewall::Hidden,
        // Without the program there are hardly any rules.
        Err(_) => Firewall::None,
    }
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let told = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    told.is_ok_and(|told| told.status.success())
}

fn ufw_is_enabled(conf: &str) -> bool {
    conf.lines().any(|line| line.trim().eq_ignore_ascii_case("enabled=yes"))
}

/// Is there a chain of what `nft list chains` prints that takes what comes in and drops it unless a rule says otherwise?
fn drops_by_default(chains: &str) -> bool {
    chains.lines().any(|line| line.contains("hook input") && line.contains("policy drop"))
}

fn judge_firewall(found: Firewall, listen: SocketAddr) -> Finding {
    let ports = format!("{port}/tcp for clients, {port}/udp and 5353/udp for other nodes", port = listen.port());
    match found {
        _ if listen.ip().is_loopback() => ok("firewall", "no matter: the node listens on this machine only"),
        Firewall::None => ok("firewall", "none that drops by default what comes in"),
        Firewall::Firewalld => warn(
            "firewall",
            format!("firewalld runs; it has to let in {ports}"),
            "firewall-cmd --permanent --add-service=imirror --add-service=mdns && firewall-cmd --reload",
        ),
        Firewall::Ufw => {
            warn("firewall", format!("ufw is enabled; it has to let in {ports}"), "ufw allow imirror && ufw allow mdns")
        }
        Firewall::Rules => warn(
            "firewall",
            format!("what comes in is dropped by default; rules have to let in {ports}"),
            "look at `nft list ruleset`; if the ports are in it, all is well",
        ),
        Firewall::Hidden => {
            warn("firewall", format!("only root sees its rules; they have to let in {ports}"), "ask again as root")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn without_multicast_there_have_to_be_seeds() {
        let broken = || Some(Err("a packet could not be sent: Network is unreachable".to_owned()));
        for (finding, verdict) in [
            (judge_multicast(Some(Ok("eth0".into())), 0), Verdict::Ok),
            (judge_multicast(broken(), 0), Verdict::Warn),
            (judge_multicast(broken(), 1), Verdict::Ok),
            (judge_multicast(None, 0), Verdict::Warn),
            (judge_multicast(None, 2), Verdict::Ok),
        ] {
            assert_eq!((finding.verdict, finding.advice.is_empty()), (verdict, verdict == Verdict::Ok), "{finding:?}");
        }
    }

    #[test]
    fn a_firewall_comes_with_what_to_let_in() {
        let listen = "[::]:3142".parse().unwrap();
        assert_eq!(judge_firewall(Firewall::None, listen).verdict, Verdict::Ok);
        for found in [Firewall::Firewalld, Firewall::Ufw, Firewall::Rules, Firewall::Hidden] {
            let finding = judge_firewall(found, listen);
            assert!(finding.verdict == Verdict::Warn && !finding.advice.is_empty(), "{finding:?}");
            assert!(finding.found.contains("3142/tcp") && finding.found.contains("3142/udp"), "{finding:?}");
            assert_eq!(judge_firewall(found, "127.0.0.1:3142".parse().unwrap()).verdict, Verdict::Ok);
        }
    }

    #[test]
    fn what_firewalls_say_is_understood() {
        assert!(ufw_is_enabled("# x\nENABLED=yes\nLOGLEVEL=low\n") && !ufw_is_enabled("ENABLED=no\n# ENABLED=yes\n"));
        let chains = |hook: &str, policy: &str| {
            format!(
                "table inet filter {{\n\tchain c {{\n\t\ttype filter hook {hook} priority filter; policy {policy};\n\t}}\n}}\n"
            )
        };
        assert!(drops_by_default(&chains("input", "drop")));
        assert!(!drops_by_default(&chains("input", "accept")) && !drops_by_default(&chains("forward", "drop")));
        assert!(!drops_by_default(""));
    }
}
