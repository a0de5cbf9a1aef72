//! Looks for what may keep a node from working; each finding says what, why and what to do.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::config::Config;
use crate::os::disk;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// Empty when all is well.
    advice: String,
}

/// Prints the findings; exit code 4 when something is wrong.
pub(super) fn examine(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let findings = [
        folder("cache folder", &config.cache_dir),
        folder("state folder", &config.state_dir),
        room(config),
        port(config),
        certificates(),
        udp_buffers(),
        clock(),
        parent(config),
    ];
    if json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let mark = match finding.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            println!("{mark}  {:<16} {}", finding.what, finding.found);
            if !finding.advice.is_empty() {
                println!("{:24}{}", "", finding.advice);
            }
        }
    }
    let wrong = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(ExitCode::from(if wrong { 4 } else { 0 }))
}

fn finding(what: &'static str, verdict: Verdict, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { what, verdict, found: found.into(), advice: advice.into() }
}

fn folder(what: &'static str, path: &Path) -> Finding {
    let tried = std::fs::create_dir_all(path).and_then(|()| tempfile::tempfile_in(path));
    match tried {
        Ok(_) => finding(what, Verdict::Ok, format!("{} is writable", path.display()), ""),
        Err(error) => {
            let advice = "make it writable for the user that runs imirror, or set another one in the configuration";
            finding(what, Verdict::Fail, format!("{}: {error}", path.display()), advice)
        }
    }
}

fn room(config: &Config) -> Finding {
    match disk::space(&config.cache_dir) {
        Ok(space) if space.free > 2 * space.reserve() => {
            finding("room", Verdict::Ok, format!("{} MiB free for the cache", space.free >> 20), "")
        }
        Ok(space) => {
            let advice =
                "free some room or set `cache_dir` to a larger file system: a twentieth is always left to others";
            finding("room", Verdict::Warn, format!("only {} MiB free", space.free >> 20), advice)
        }
        Err(error) => finding("room", Verdict::Fail, error.to_string(), "see the cache folder above"),
    }
}

fn port(config: &Config) -> Finding {
    if std::os::unix::net::UnixStream::connect(&config.socket).is_ok() {
        return finding("port", Verdict::Ok, format!("a node is running and listens on {}", config.listen), "");
    }
    match std::net::TcpListener::bind(config.listen) {
        Ok(_) => finding("port", Verdict::Ok, format!("{} is free", config.listen), ""),
        Err(error) => {
            let advice = "stop the other program (apt-cacher-ng has the same port) or set another `listen`";
            finding("port", Verdict::Fail, format!("{}: {error}", config.listen), advice)
        }
    }
}

fn certificates() -> Finding {
    let count = rustls_native_certs::load_native_certs().certs.len();
    match count {
        0 => {
            let advice = "install the package ca-certificates, or set SSL_CERT_FILE: https upstreams fail without";
            finding("CA certificates", Verdict::Fail, "none were found", advice)
        }
        count => finding("CA certificates", Verdict::Ok, format!("{count} found"), ""),
    }
}

fn udp_buffers() -> Finding {
    let read = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default();
    match read.trim().parse::<u64>() {
        Ok(bytes) if bytes >= 4 << 20 => finding("UDP buffers", Verdict::Ok, format!("{bytes} bytes"), ""),
        Ok(bytes) => {
            let advice = "for several nodes: sysctl -w net.core.rmem_max=8388608 net.core.wmem_max=8388608";
            finding("UDP buffers", Verdict::Warn, format!("{bytes} bytes"), advice)
        }
        Err(_) => finding("UDP buffers", Verdict::Warn, "the limit cannot be read", ""),
    }
}

fn clock() -> Finding {
    // The year this was written: an earlier clock cannot be right.
    const THEN: u64 = 1_767_225_600;
    match crate::os::clock::Clock::system().now().unix_seconds() {
        now if now >= THEN => finding("clock", Verdict::Ok, "plausible", ""),
        now => finding(
            "clock",
            Verdict::Fail,
            format!("{now} seconds since 1970"),
            "set it: certificates are checked against it",
        ),
    }
}

fn parent(config: &Config) -> Finding {
    use std::net::{TcpStream, ToSocketAddrs};
    let Some(proxy) = &config.upstream.proxy else {
        return finding("parent proxy", Verdict::Ok, "none is configured", "");
    };
    let tried = (proxy.host.as_str(), proxy.port).to_socket_addrs().and_then(|mut addresses| {
        let address = addresses.next().ok_or(std::io::ErrorKind::NotFound)?;
        TcpStream::connect_timeout(&address, std::time::Duration::from_secs(3))
    });
    match tried {
        Ok(_) => finding("parent proxy", Verdict::Ok, format!("{}:{} accepts connections", proxy.host, proxy.port), ""),
        Err(error) => {
            let advice = "it is the only way out: start it, or correct `[upstream] proxy`";
            finding("parent proxy", Verdict::Fail, format!("{}:{}: {error}", proxy.host, proxy.port), advice)
        }
    }
}
