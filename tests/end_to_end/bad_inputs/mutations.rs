//! Requests that nobody thought of: sound ones that arrive in pieces, in rows, and damaged at random. A failure names the
//! seed and the bytes, and comes again with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::origin::Origin;
use super::player::{self, Answer, End, Exchange, Patience};
use super::script::Step;
use super::{PACKAGE, check_health, in_a_namespace, is_alive, judge, world};

/// Damaged requests of one run.
const MUTATIONS: usize = 12_000;

/// Rows of sound requests of one run.
const ROWS: usize = 200;

const SEED: u64 = 0x1317_0c0d_e5ee_d001;

const WORKERS: usize = 8;

/// What has confused a parser before.
const DICTIONARY: [&[u8]; 24] = [
    b"\0",
    b"\r",
    b"\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"\t",
    b" ",
    b":",
    b"\xff\xfe",
    b"%00",
    b"%2e%2e/",
    b"//",
    b"http://",
    b"[::1]",
    b"@",
    b"#",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close, te, host\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\n",
    b"Range: bytes=0-0,5-\r\n",
    b"0\r\n\r\n",
];

/// Pieces of a request arrive when they arrive: wherever it is cut, the answer is the same.
#[test]
fn split_anywhere() {
    in_a_namespace(|| {
        let (origin, mut node) = world("");
        let at = node.address();
        let requests: Vec<_> = sound_requests(&origin, "split").into_iter().map(|r| last(&r)).collect();
        let whole: Vec<_> = requests.iter().map(|r| send(&at, &[r])).collect();
        let cuts: Vec<_> =
            requests.iter().enumerate().flat_map(|(which, r)| (1..r.len()).map(move |cut| (which, cut))).collect();
        in_parallel(cuts.len(), |index| {
            let (which, cut) = cuts[index];
            let (first, second) = requests[which].split_at(cut);
            let got = essence(&send(&at, &[first, second]));
            let expected = essence(&whole[which]);
            match got == expected && !got.is_empty() {
                true => Ok(()),
                false => Err(format!("cut at {cut}: {}\n{got:?}\nand not\n{expected:?}", shown(&requests[which]))),
            }
        });
        check_health(&mut node, &origin);
    });
}

/// Requests may be sent before the answers to earlier ones have come: each has its own answer, in order.
#[test]
fn rows_of_requests() {
    in_a_namespace(|| {
        let (origin, mut node) = world("");
        let at = node.address();
        in_parallel(ROWS, |index| {
            let mut random = Random::new(SEED, index);
            let count = 2 + random.below(6);
            let paths: Vec<_> = (0..count).map(|n| format!("/row{index}/{n}{}", random.one(&["", PACKAGE]))).collect();
            let host = origin.authority();
            let mut row: Vec<u8> = Vec::new();
            for (n, path) in paths.iter().enumerate() {
                let end = if n + 1 == count { "Connection: close\r\n" } else { "" };
                let (method, body) = *random.one(&[
                    ("GET", "\r\n"),
                    ("POST", "Content-Length: 5\r\n\r\nhello"),
                    ("POST", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
                ]);
                row.extend(format!("{method} http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n{end}{body}").bytes());
            }
            let (first, second) = row.split_at(random.below(row.len()));
            let exchange = send(&at, &[first, second]);
            let own = |(answer, path): (&Answer, &String)| {
                answer.status == 200 && answer.end == End::Whole && answer.says(&format!("TARGET={path}\n"))
            };
            let answers: Vec<_> = exchange.answers.iter().filter(|answer| answer.status >= 200).collect();
            match answers.len() == count && answers.into_iter().zip(&paths).all(own) {
                true => judge::sound_stream(&exchange),
                false => Err(format!("{}\n{:?}", shown(&row), essence(&exchange))),
            }
        });
        check_clean(&origin);
        check_health(&mut node, &origin);
    });
}

/// Whatever comes in, answers come out, the origin sees nothing ambiguous, and the next client notices nothing.
#[test]
fn damaged_requests() {
    in_a_namespace(|| {
        let (origin, mut node) = world("");
        let at = node.address();
        // What the answer to a HEAD is cannot be told when the method is damaged.
        let mut sound = sound_requests(&origin, "damaged");
        sound.retain(|request| !request.starts_with(b"HEAD"));
        in_parallel(MUTATIONS, |index| {
            let mut random = Random::new(SEED, index);
            let damaged = damage(&sound, &mut random);
            let (first, second) = damaged.split_at(random.below(damaged.len() + 1));
            let steps = [Step::Send(first.to_vec()), Step::Send(second.to_vec()), Step::Finish];
            let exchange = player::exchange(&at, &steps, Patience::ORDINARY);
            let ended = match exchange.closed {
                true => judge::sound_stream(&exchange),
                false => Err("the node holds on to a client that has gone".into()),
            };
            ended.and_then(|()| is_alive(&at, &origin, index)).map_err(|wrong| format!("{wrong}: {}", shown(&damaged)))
        });
        check_clean(&origin);
        check_health(&mut node, &origin);
    });
}

/// Requests of every kind that a node knows; none says that it is the last one.
fn sound_requests(origin: &Origin, path: &str) -> Vec<Vec<u8>> {
    let host = origin.authority();
    let url = format!("http://{host}/{path}");
    [
        format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n"),
        format!("GET {url}{PACKAGE} HTTP/1.1\r\nHost: {host}\r\nIf-None-Match: \"v0\"\r\n\r\n"),
        format!("GET {url}/2{PACKAGE} HTTP/1.1\r\nHost: {host}\r\nRange: bytes=2-9\r\n\r\n"),
        format!("GET {url}/dists/stable/InRelease HTTP/1.1\r\nHost: {host}\r\nCache-Control: max-age=0\r\n\r\n"),
        format!("HEAD {url} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET /{host}/{path}{PACKAGE} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("POST {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 11\r\n\r\nhello world"),
        format!("POST {url} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// The same request as the last of its connection.
fn last(request: &[u8]) -> Vec<u8> {
    let line = request.windows(2).position(|w| w == b"\r\n").expect("a request line") + 2;
    [&request[..line], b"Connection: close\r\n", &request[line..]].concat()
}

/// One to four wounds; now and then another request behind it.
fn damage(sound: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = random.one(sound).clone();
    if random.below(4) == 0 {
        let behind: &Vec<u8> = random.one(sound);
        bytes.extend_from_slice(behind);
    }
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        let until = (at + 1 + random.below(8)).min(bytes.len());
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.byte(),
            2 => drop(bytes.splice(at..at, random.one(&DICTIONARY).iter().copied())),
            3 => drop(bytes.drain(at..until)),
            4 => {
                let again = bytes[at..until].to_vec();
                drop(bytes.splice(at..at, again.iter().copied().cycle().take(again.len() * (1 + random.below(20)))));
            }
            5 => bytes.truncate(at),
            6 => {
                let noise: Vec<_> = (0..random.below(40)).map(|_| random.byte()).collect();
                drop(bytes.splice(at..at, noise));
            }
            _ => at_a_line(&mut bytes, random),
        }
    }
    bytes
}

/// Takes a line away, doubles it, or ends it differently.
fn at_a_line(bytes: &mut Vec<u8>, random: &mut Random) {
    let ends: Vec<_> = (1..bytes.len()).filter(|at| bytes[at - 1..=*at] == *b"\r\n").map(|at| at + 1).collect();
    let Some(which) = (!ends.is_empty()).then(|| random.below(ends.len())) else { return };
    let (start, end) = (if which == 0 { 0 } else { ends[which - 1] }, ends[which]);
    let line = bytes[start..end].to_vec();
    match random.below(3) {
        0 => drop(bytes.drain(start..end)),
        1 => drop(bytes.splice(start..start, line)),
        _ => drop(bytes.splice(end - 2..end, random.one(&[&b"\n"[..], b"\r", b"\r\r\n", b" \r\n"]).iter().copied())),
    }
}

/// Sends the pieces, a moment apart so that they are read apart, and reads to the end.
fn send(node: &str, pieces: &[&[u8]]) -> Exchange {
    let moment = Step::Sleep(Duration::from_millis(1));
    let steps: Vec<_> = pieces.iter().flat_map(|piece| [Step::Send(piece.to_vec()), moment.clone()]).collect();
    player::exchange(node, &steps, Patience::ORDINARY)
}

/// What must not depend on how a request arrived.
fn essence(exchange: &Exchange) -> Vec<(u16, String, End)> {
    let text = |answer: &Answer| String::from_utf8_lossy(&answer.body).into_owned();
    exchange.answers.iter().map(|answer| (answer.status, text(answer), answer.end)).collect()
}

fn shown(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

fn check_clean(origin: &Arc<Origin>) {
    for seen in origin.everything() {
        assert!(judge::is_clean(&seen), "the origin was sent {} {}", shown(&seen.head), shown(&seen.body));
    }
}

/// Runs all of them, a few at the same time, and tells what failed.
fn in_parallel(count: usize, one: impl Fn(usize) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut failures = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return failures;
            }
            failures.extend(one(index).err().map(|wrong| format!("{index}: {wrong}\n")));
        }
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        running.into_iter().flat_map(|worker| worker.join().expect("the worker is sound")).collect()
    });
    let first: String = failures.iter().take(20).map(String::as_str).collect();
    assert!(failures.is_empty(), "seed {SEED:#x}: {} of {count} fail\n{first}", failures.len());
}

/// SplitMix64: small, and the same each time.
struct Random(u64);

impl Random {
    fn new(seed: u64, index: usize) -> Self {
        Self(seed.wrapping_add((index as u64).wrapping_mul(0xd1b5_4a32_d192_ed03)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `limit`; zero for zero.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
