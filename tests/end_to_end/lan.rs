//! What the tests of the site stand on: the LAN in a box does what it says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use imirror_tests::content;
use imirror_tests::netns::{Host, Lan};
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page};

/// Sends back what comes, on every connection.
fn echo(host: &Host) -> SocketAddr {
    let listener = host.listen();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}

fn echoes(stream: &mut TcpStream, text: &[u8]) -> bool {
    let mut back = vec![0; text.len()];
    let mut writing = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        // More than the buffers on the way hold.
        let written = scope.spawn(move || writing.write_all(text).is_ok());
        stream.read_exact(&mut back).is_ok() && written.join().unwrap() && back == text
    })
}

/// Whether a connection comes about while one that nothing stops would have many times over.
fn reaches(from: &Host, to: SocketAddr) -> bool {
    from.within(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok())
}

#[test]
fn cables_are_cut_and_mended() {
    let lan = Lan::new(3);
    let server = echo(lan.host(0));
    let mut stream = lan.host(1).connect(server).unwrap();
    assert!(echoes(&mut stream, b"before"));
    assert!(reaches(lan.uplink(), server), "from where the bridge is");

    lan.cut(0);
    assert!(![lan.host(1), lan.host(2), lan.uplink()].iter().any(|host| reaches(host, server)));
    assert!(reaches(lan.host(0), server), "the host itself runs on");
    stream.write_all(b"lost and ").unwrap();
    lan.heal(0);
    let mut back = [0; 9];
    stream.read_exact(&mut back).unwrap();
    assert!(&back == b"lost and " && echoes(&mut stream, b"found"), "the connection has outlived it");

    lan.part(&[0], &[1]);
    assert_eq!([1, 2].map(|i| reaches(lan.host(i), server)), [false, true]);
    lan.unite();
    assert!(echoes(&mut stream, b"after") && reaches(lan.host(1), server));
}

#[test]
fn cables_are_slowed_down() {
    let lan = Lan::new(2);
    let server = echo(lan.host(0));
    let mut stream = lan.host(1).connect(server).unwrap();
    lan.limit(0, "4mbit");
    assert!(echoes(&mut stream, &content(1, 600_000)));
    for (host, device) in [(lan.uplink(), "p1"), (lan.host(0), "eth0")] {
        let shown = host.command("tc").args(["-s", "qdisc", "show", "dev", device]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let held_back = shown.split("overlimits ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        assert!(shown.contains("rate 4Mbit") && held_back != "0", "{shown}");
    }
}

#[test]
fn without_ipv4_there_is_none() {
    let lan = Lan::ipv6_only(2);
    assert_eq!(lan.host(1).address().to_string(), "fd77::2");
    let server = echo(lan.host(0));
    assert!(echoes(&mut lan.host(1).connect(server).unwrap(), b"by IPv6"));
    let shown = lan.run_in(1, "ip").args(["-4", "addr", "show", "dev", "eth0"]).output().unwrap();
    assert!(shown.status.success() && shown.stdout.is_empty(), "{shown:?}");
}

#[test]
fn what_runs_there_ends_with_it() {
    let lan = Lan::new(1);
    let mut left = lan.run_in(0, "sleep").arg("1000").spawn().unwrap();
    // It is on the host as soon as it is no more the program that takes it there.
    let name = format!("/proc/{}/comm", left.id());
    while std::fs::read_to_string(&name).unwrap().trim() != "sleep" {
        std::thread::yield_now();
    }
    let test_that_fails = std::panic::catch_unwind(move || {
        let _lan = lan;
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(test_that_fails.is_err());
    assert_eq!(left.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_node_on_a_host_serves_the_others() {
    let lan = Lan::new(2);
    let origin = Origin::start_on(lan.uplink().listen());
    let body = content(1, 300_000);
    origin.put("/a_1.deb", Page::new(body.clone()));
    let mut node = Node::on(lan.host(0), "lab1", "");
    node.run();
    let proxy = SocketAddr::new(lan.host(0).address(), 3142).to_string();
    let mut curl = lan.run_in(1, "curl");
    let fetched = curl.args(["-sS", "--proxy", &proxy, &origin.url("/a_1.deb")]).output().unwrap();
    assert!(fetched.stdout == body, "{}", String::from_utf8_lossy(&fetched.stderr));
    assert!(node.get(&origin.url("/a_1.deb")).body == body);
    assert_eq!(origin.sent("/a_1.deb"), body.len());
    assert_eq!(node.status()["node"]["address"], proxy);
    node.stop();
}
