//! Raw requests and upstream lies (`cases.json`), each with the safe result and why, by every way in which a node can be
//! asked. Each playing has a network namespace of its own, in which addresses that must never be reached exist and listen.

mod cases;
mod judge;
mod mutations;
mod origin;
mod player;
mod script;

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use imirror_tests::node::Node;

use cases::{Case, Macros, Place, Side};
use judge::Course;
use origin::Origin;
use player::Patience;

/// Cases that are played at the same time.
const PLAYERS: usize = 12;

/// The most memory that a node may ever have held.
const MEMORY_MAX_MIB: u64 = 200;

/// A name of a package, which is stored.
const PACKAGE: &str = "/pool/a_1.0_amd64.deb";

/// How the node is asked.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The target is a whole URL.
    Forward,
    /// The target is `/HOST/path`.
    Mirror,
}

#[test]
fn forward_plain_paths() {
    in_a_namespace(|| play(&[(Way::Forward, "")], &|place| matches!(place, Place::Everywhere | Place::Forward)));
}

/// What is not a package is stored, too.
#[test]
fn forward_plain_paths_in_a_shared_cache() {
    let which = |place| matches!(place, Place::Everywhere | Place::Forward);
    in_a_namespace(move || play_at("[freshness]\nother = \"rfc9111\"\n", &[(Way::Forward, "")], &which));
}

#[test]
fn forward_package_paths() {
    in_a_namespace(|| play(&[(Way::Forward, PACKAGE)], &|place| matches!(place, Place::Everywhere | Place::Forward)));
}

#[test]
fn mirror_plain_paths() {
    in_a_namespace(|| play(&[(Way::Mirror, "")], &|place| matches!(place, Place::Everywhere | Place::Mirror)));
}

#[test]
fn mirror_package_paths() {
    in_a_namespace(|| play(&[(Way::Mirror, PACKAGE)], &|place| matches!(place, Place::Everywhere | Place::Mirror)));
}

/// Each waits for the node to lose its patience, all at the same time.
#[test]
fn slow() {
    in_a_namespace(|| play(&[(Way::Forward, ""), (Way::Forward, PACKAGE)], &|place| place == Place::Slow));
}

/// Runs a test on a thread whose network, and that of all it starts, is loopback alone. It is gone with them.
fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    let inside = move || {
        #[expect(deprecated, reason = "deprecated for what it does to file descriptors, which are not touched here")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("network namespaces need root");
        // Without `nodad` the kernel first looks for others that have the address, and nothing can listen on it yet.
        let v6 = "addr add fd00:ec2::254/128 dev lo nodad";
        for words in ["link set lo up", "addr add 169.254.169.254/32 dev lo", v6] {
            assert!(Command::new("ip").args(words.split(' ')).status().expect("iproute2").success(), "ip {words}");
        }
        test();
    };
    if let Err(panic) = std::thread::spawn(inside).join() {
        std::panic::resume_unwind(panic);
    }
}

/// An origin with its forbidden listeners, and a node that may reach it and nothing else here; `more` configures it.
fn world(more: &str) -> (Arc<Origin>, Node) {
    let origin = Origin::start();
    for address in ["169.254.169.254:80", "[fd00:ec2::254]:80"] {
        origin.clone().forbid(TcpListener::bind(address).expect("the namespace has it"));
    }
    let node = Node::start(&[&origin.authority()], more);
    (origin, node)
}

fn play(ways: &[(Way, &str)], which: &dyn Fn(Place) -> bool) {
    play_at("", ways, which);
}

/// Plays the cases at a node with this much more configuration; with some it stores everything that may be stored.
fn play_at(more: &str, ways: &[(Way, &str)], which: &dyn Fn(Place) -> bool) {
    let (origin, mut node) = world(more);
    let cases = cases::all();
    let chosen: Vec<_> = cases.iter().filter(|case| which(case.place)).collect();
    let work: Vec<_> = ways.iter().flat_map(|way| chosen.iter().map(move |case| (*case, *way))).collect();
    let failures = play_each(&work, &node.address(), &origin, !more.is_empty());
    let table: String = failures.iter().map(|row| format!("{row}\n")).collect();
    assert!(failures.is_empty(), "{} of {} fail\n{table}", failures.len(), work.len());
    check_health(&mut node, &origin);
}

/// Rows of the table of failures, in the order of the list.
fn play_each(work: &[(&Case, (Way, &str))], node: &str, origin: &Arc<Origin>, stores_all: bool) -> Vec<String> {
    let next = AtomicUsize::new(0);
    // What is slow waits, and waits best together.
    let players = if work.iter().all(|(case, _)| case.place == Place::Slow) { work.len() } else { PLAYERS };
    let player = || {
        let mut rows = Vec::new();
        while let Some((index, (case, way))) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            work.get(index).map(|one| (index, one))
        } {
            rows.extend(play_one(case, *way, index, node, origin, stores_all).err().map(|row| (index, row)));
        }
        rows
    };
    let mut rows: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..players).map(|_| scope.spawn(player)).collect();
        running.into_iter().flat_map(|player| player.join().expect("the player is sound")).collect()
    });
    rows.sort();
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Plays a case on a path of its own; the error is its row in the table.
fn play_one(
    case: &Case,
    (way, suffix): (Way, &str),
    index: usize,
    node: &str,
    origin: &Origin,
    stores_all: bool,
) -> Result<(), String> {
    let authority = origin.authority();
    let (base, host) = match way {
        Way::Forward => (format!("http://{authority}"), authority.clone()),
        Way::Mirror => (format!("/{authority}"), node.to_owned()),
    };
    let secret = origin.secret_port();
    let macros = Macros { base: base.clone(), host, secret, node: node.to_owned(), origin_port: origin.port };
    let mark = format!("mark{index:03}");
    let path = format!("/{mark}{suffix}");
    let plain = macros.expand(&format!("GET {{BASE}}{path} HTTP/1.1\r\nHost: {{HOST}}\r\n\r\n"));
    let scripts = match case.from {
        Side::Client => macros.expand(&case.raw).replace("{P}", &path).split("<<NEXT>>").map(str::to_owned).collect(),
        Side::Upstream => {
            // The origin speaks of itself, whatever way the node was asked.
            origin.lie(&mark, Macros { host: authority.clone(), ..macros }.expand(&case.raw));
            vec![plain.clone()]
        }
    };
    let (patience, second) = match case.place {
        Place::Slow => (Patience::SLOW, Patience::BRIEF),
        _ => (Patience::ORDINARY, Patience::ORDINARY),
    };
    let trespasses = origin.trespasses().len();
    let exchanges = scripts.iter().map(|script| player::talk(node, script, patience)).collect();
    let seen = origin.seen(&mark);
    let again = case.also.iter().any(|token| matches!(token.as_str(), "not-cached" | "no-cookie-replay")).then(|| {
        let exchange = player::talk(node, &plain.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"), second);
        (exchange, origin.seen(&mark).len() > seen.len())
    });
    let trespassed = origin.trespasses().len() > trespasses;
    let stored = stores_all || !suffix.is_empty();
    let course = Course { case, exchanges, seen, again, base, authority, stored, trespassed };
    let verdict = course.verdict().and_then(|()| is_alive(node, origin, index));
    verdict.map_err(|wrong| format!("{:32} {wrong}\n    got  {}\n    why  {}", case.name, course.summary(), case.why))
}

/// An ordinary request has its ordinary answer.
fn is_alive(node: &str, origin: &Origin, index: usize) -> Result<(), String> {
    let host = origin.authority();
    let target = format!("http://{host}/alive/{index}");
    let script = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let exchange = player::talk(node, &script, Patience::ORDINARY);
    match exchange.answer() {
        Some(answer) if answer.status == 200 && answer.says(&format!("TARGET=/alive/{index}\n")) => Ok(()),
        other => Err(format!("afterwards an ordinary request is answered {:?}", other.map(|answer| answer.status))),
    }
}

/// The node went nowhere it may not go, never held more memory than it may, has not panicked, and ends when it is told to.
fn check_health(node: &mut Node, origin: &Origin) {
    assert_eq!(origin.trespasses(), Vec::<String>::new());
    let peak = node.memory("VmHWM");
    assert!(peak < MEMORY_MAX_MIB, "the node held {peak} MiB");
    node.stop();
    assert!(!node.log().contains("panicked"), "{}", node.log());
}
