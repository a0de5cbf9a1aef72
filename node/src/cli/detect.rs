//! For apt's `Acquire::http::Proxy-Auto-Detect`: a laptop uses the node where there is one and goes direct elsewhere.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::cluster::discovery;

/// apt waits for this answer before it does anything.
const PATIENCE: Duration = Duration::from_millis(500);

/// Nothing is announced twice within a second (RFC 6762 section 6), and apt asks for each of its hosts: the second question
/// of this wait is answered in any case.
const LOOKED_FOR: Duration = Duration::from_millis(1500);

/// The line that apt reads: the first node that answers, or `DIRECT`. Where none is named and none is here, one that announces
/// itself on this network will do, if `mdns` permits.
pub(super) fn proxy(nodes: &[String], listen: Option<SocketAddr>, mdns: bool) -> String {
    let local = listen.map(|listen| match listen.ip() {
        ip if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port())).to_string(),
        _ => listen.to_string(),
    });
    let known = nodes.iter().chain(&local).find(|node| answers(node)).cloned();
    let heard_of = || {
        let serves = |address: SocketAddr| answers(&address.to_string());
        if mdns && nodes.is_empty() { discovery::proxy(LOOKED_FOR, serves) } else { None }
    };
    match known.or_else(|| Some(heard_of()?.to_string())) {
        Some(node) => format!("http://{node}/\n"),
        None => "DIRECT\n".into(),
    }
}

/// Does a node serve there? A degraded one does.
pub(super) fn answers(node: &str) -> bool {
    let Ok(mut addresses) = node.to_socket_addrs() else { return false };
    addresses.any(|address| health(address, node).is_ok_and(|answer| is_health(&answer)))
}

fn health(address: SocketAddr, node: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /-/health HTTP/1.1\r\nHost: {node}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer)
}

fn is_health(answer: &str) -> bool {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1);
    matches!((status, body.lines().next()), (Some("200"), Some("ok")) | (Some("503"), Some("degraded")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server on loopback that gives one answer.
    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn the_first_node_that_answers() {
        let good = server("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n");
        let other = server("HTTP/1.1 404 Not Found\r\n\r\n");
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let nodes = [closed.to_string(), other.to_string(), "no such host".into()];
        assert_eq!(proxy(&nodes, Some(good), false), format!("http://{good}/\n"));
        assert_eq!(proxy(&[], Some(closed), false), "DIRECT\n");
        assert_eq!(proxy(&[], None, false), "DIRECT\n");
    }

    #[test]
    fn a_degraded_node_still_serves() {
        assert!(is_health("HTTP/1.1 503 Service Unavailable\r\n\r\ndegraded\nread-only\n"));
        assert!(!is_health("HTTP/1.1 503 Service Unavailable\r\n\r\nbusy\n"));
        assert!(!is_health("220 mail.example.org ESMTP\r\n"));
    }
}
