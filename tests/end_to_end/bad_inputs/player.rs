//! Plays one case against a node: the client's side of every connection, and what came back, byte by byte.

use std::io::Read;
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::script::{self, Step};

/// What a client is ready to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// For the next byte.
    byte: Duration,
    /// For all of them.
    all: Duration,
}

impl Patience {
    pub(super) const ORDINARY: Self = Self { byte: Duration::from_secs(10), all: Duration::from_secs(30) };
    /// Longer than a node's for a client that says nothing.
    pub(super) const SLOW: Self = Self { byte: Duration::from_secs(65), all: Duration::from_secs(65) };
    /// For a second look at a slow thing.
    pub(super) const BRIEF: Self = Self { byte: Duration::from_secs(8), all: Duration::from_secs(8) };
}

/// Nothing more is expected when nothing came for so long after a whole answer.
const QUIET: Duration = Duration::from_millis(500);

/// More is not read of an answer; above the second number it is not looked at until it ends.
const ANSWER_BYTES_MAX: usize = 30_000_000;
const PARSE_BYTES_MAX: usize = 8_000_000;

/// One connection from its first byte to its last.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// Of the request line.
    pub(super) target: String,
    pub(super) answers: Vec<Answer>,
    /// What came that is no answer.
    pub(super) garbage: Vec<u8>,
    pub(super) data: Vec<u8>,
    /// By the node.
    pub(super) closed: bool,
    pub(super) took: Duration,
}

/// An answer, interim ones too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: Vec<u8>,
    /// Names in lower case.
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) end: End,
}

/// Whether the message is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Whole,
    Cut,
    /// Nobody can tell: only the end of the connection ends it.
    Unknown,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(super) fn says(&self, text: &str) -> bool {
        let bytes = script::latin1(text);
        self.body.windows(bytes.len()).any(|w| w == bytes)
    }
}

impl Exchange {
    /// The first answer that is not interim.
    pub(super) fn answer(&self) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.status >= 200)
    }
}

/// Opens a connection, plays the script and reads until nothing more is to be expected.
pub(super) fn talk(node: &str, text: &str, patience: Patience) -> Exchange {
    exchange(node, &script::parse(text), patience)
}

/// As `talk`, for steps that no text has.
pub(super) fn exchange(node: &str, steps: &[Step], patience: Patience) -> Exchange {
    let start = Instant::now();
    let sent: String = steps.iter().flat_map(Step::bytes).map(|b| char::from(*b)).collect();
    let first_line = sent.split('\r').next().unwrap_or_default();
    let mut exchange =
        Exchange { target: first_line.split(' ').nth(1).unwrap_or_default().to_owned(), ..Exchange::default() };
    let Ok(stream) = TcpStream::connect(node) else {
        exchange.closed = true;
        return exchange;
    };
    stream.set_nodelay(true).expect("an option");
    let mut writing = stream.try_clone().expect("a descriptor");
    let (going, over) = mpsc::channel();
    let deaf = steps.iter().any(|step| matches!(step, Step::NoRead(_)));
    // A client that has said that this is its last request waits for the end.
    let waits_for_close = sent.contains("Connection: close") || steps.contains(&Step::Finish);
    let steps = steps.to_vec();
    let writer = std::thread::spawn(move || drop(script::play(&steps, &mut writing, &over)));
    let writer = match deaf {
        true => writer.join().map(|()| None).expect("the script is sound"),
        false => Some(writer),
    };
    let head_only = first_line.starts_with("HEAD ");
    exchange.read(&stream, patience, waits_for_close, head_only);
    let _ = script::reset_on_close(&stream);
    drop(going);
    let _ = stream.shutdown(std::net::Shutdown::Both);
    writer.into_iter().for_each(|writer| writer.join().expect("the script is sound"));
    (exchange.answers, exchange.garbage) = answers(&exchange.data, head_only);
    exchange.took = start.elapsed();
    exchange
}

impl Exchange {
    fn read(&mut self, mut stream: &TcpStream, patience: Patience, waits_for_close: bool, head_only: bool) {
        let deadline = Instant::now() + patience.all;
        let mut block = vec![0; 1 << 16];
        let mut wait = patience.byte;
        while self.data.len() < ANSWER_BYTES_MAX && Instant::now() < deadline {
            stream.set_read_timeout(Some(wait)).expect("a timeout");
            match stream.read(&mut block) {
                Ok(0) => {
                    self.closed = true;
                    return;
                }
                Ok(len) => self.data.extend_from_slice(&block[..len]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => return,
                Err(_) => {
                    self.closed = true;
                    return;
                }
            }
            if !waits_for_close && self.data.len() < PARSE_BYTES_MAX {
                let (answers, _) = answers(&self.data, head_only);
                let done = answers.last().is_some_and(|last| last.end == End::Whole && last.status >= 200);
                wait = if done { QUIET } else { patience.byte };
            }
        }
    }
}

/// Cuts a stream into answers; what follows the last of them and is none comes second.
fn answers(mut data: &[u8], head_only: bool) -> (Vec<Answer>, Vec<u8>) {
    let mut found = Vec::new();
    while !data.is_empty() {
        let Some(mut answer) = head(data) else { return (found, data.to_vec()) };
        data = &data[answer.head.len()..];
        let whole_head = answer.head.ends_with(b"\r\n\r\n");
        let chunked = answer.field("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        let length = answer.field("content-length").and_then(|v| v.parse::<usize>().ok());
        let bodiless = answer.status < 200 || matches!(answer.status, 204 | 304) || head_only;
        let taken = match length {
            _ if !whole_head => 0,
            _ if bodiless => {
                answer.end = End::Whole;
                0
            }
            _ if chunked => {
                let (body, taken, whole) = chunks(data);
                answer.end = if whole { End::Whole } else { End::Cut };
                answer.body = body;
                if whole { taken } else { data.len() }
            }
            Some(length) => {
                let taken = length.min(data.len());
                answer.body = data[..taken].to_vec();
                answer.end = if taken == length { End::Whole } else { End::Cut };
                taken
            }
            None => {
                answer.body = data.to_vec();
                answer.end = End::Unknown;
                data.len()
            }
        };
        data = &data[taken..];
        found.push(answer);
    }
    (found, Vec::new())
}

/// A head, cut when its empty line has not come; `None` when it is none.
fn head(data: &[u8]) -> Option<Answer> {
    let end = data.windows(4).position(|w| w == b"\r\n\r\n").map_or(data.len(), |at| at + 4);
    let head = &data[..end];
    let text: String = head.iter().map(|b| char::from(*b)).collect();
    let mut lines = text.split("\r\n");
    let line = lines.next()?;
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let status = rest.get(..3)?.parse().ok().filter(|_| matches!(rest.as_bytes().get(3), None | Some(b' ')))?;
    let fields = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Answer { status, head: head.to_vec(), fields, body: Vec::new(), end: End::Cut })
}

/// The content of a chunked body, how many bytes it took, and whether its last chunk has come.
fn chunks(data: &[u8]) -> (Vec<u8>, usize, bool) {
    let (mut body, mut at) = (Vec::new(), 0);
    let line_end = |at: usize| data.get(at..)?.windows(2).position(|w| w == b"\r\n").map(|len| at + len);
    while let Some(end) = line_end(at) {
        let line = String::from_utf8_lossy(&data[at..end]);
        let Ok(size) = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16) else { break };
        at = end + 2;
        if size == 0 {
            // Trailer lines up to an empty one.
            while let Some(end) = line_end(at) {
                let empty = end == at;
                at = end + 2;
                if empty {
                    return (body, at, true);
                }
            }
            break;
        }
        body.extend_from_slice(&data[at..data.len().min(at.saturating_add(size))]);
        if data.get(at + size..at + size + 2) != Some(b"\r\n") {
            break;
        }
        at += size + 2;
    }
    (body, at, false)
}

#[test]
fn streams_are_cut_into_answers() {
    let data = b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 502 No\r\n\
                 Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut";
    let (found, garbage) = answers(data, false);
    let summary: Vec<_> = found.iter().map(|a| (a.status, a.body.as_slice(), a.end)).collect();
    assert_eq!(
        summary,
        [
            (103, b"".as_slice(), End::Whole),
            (200, b"ok", End::Whole),
            (502, b"ab", End::Whole),
            (200, b"cut", End::Cut)
        ]
    );
    assert!(garbage.is_empty());
    assert_eq!(answers(b"HTTP/1.1 204 No\r\n\r\nSSH-2.0", false).1, b"SSH-2.0");
    let unfinished = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab";
    assert_eq!(answers(unfinished, false).0[0].end, End::Cut);
}
