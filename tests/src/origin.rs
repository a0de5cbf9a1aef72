//! An upstream that counts what it sends and misbehaves as told. Its counts are the judge of what crossed the uplink.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::sha256;

fn loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// What is served under a path.
#[derive(Debug, Clone)]
pub struct Page {
    pub status: u16,
    pub body: Arc<Vec<u8>>,
    /// The content is the body so many times.
    pub times: usize,
    pub etag: Option<String>,
    pub modified: Option<String>,
    pub trouble: Trouble,
    /// Whole lines that are added to the head.
    pub fields: Vec<String>,
}

/// How it goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Only this status and a short text.
    Status(u16),
    /// The connection is cut after so many bytes of the content, this many times.
    CutAt(usize, usize),
    /// Nothing comes after so many bytes of the content until `release` is called.
    StallAt(usize),
    /// The announced length is longer than what comes.
    TooShort,
    /// `Range` is ignored.
    NoRanges,
    /// 304 with the page's validators to each request that has a condition, whichever it is.
    NotModified,
    /// The same, to requests without a condition too.
    AlwaysNotModified,
    /// Nothing comes, not even the head, until `release` is called.
    Mute,
    /// It is to be had there.
    MovedTo(String),
    /// The length is not announced: the content ends with the connection.
    NoLength,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub fields: HashMap<String, String>,
    pub body: Vec<u8>,
    /// Bytes of the answer's body that were sent.
    pub sent: usize,
}

/// The server; it ends with the process.
#[derive(Clone)]
pub struct Origin(Arc<Shared>);

struct Shared {
    address: String,
    scheme: &'static str,
    pages: Mutex<HashMap<String, Page>>,
    seen: Mutex<Vec<Seen>>,
    released: (Mutex<bool>, Condvar),
    down: AtomicBool,
}

impl Page {
    /// With an entity tag made of the content and a date.
    pub fn new(body: Vec<u8>) -> Self {
        Self {
            etag: Some(format!("\"{}\"", &sha256(&body)[..16])),
            modified: Some("Mon, 02 Jan 2023 03:04:05 GMT".into()),
            status: 200,
            body: Arc::new(body),
            times: 1,
            trouble: Trouble::None,
            fields: Vec::new(),
        }
    }

    pub fn with(self, trouble: Trouble) -> Self {
        Self { trouble, ..self }
    }

    /// With a line more in the head.
    pub fn saying(mut self, line: &str) -> Self {
        self.fields.push(line.into());
        self
    }

    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// A large content that nobody holds in memory.
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    pub fn modified(self, date: &str) -> Self {
        Self { modified: Some(date.into()), ..self }
    }

    pub fn without_validators(self) -> Self {
        Self { etag: None, modified: None, ..self }
    }
}

impl Origin {
    pub fn start() -> Self {
        Self::start_with(loopback(), None)
    }

    /// One that is asked over https.
    pub fn start_tls(identity: Arc<rustls::ServerConfig>) -> Self {
        Self::start_with(loopback(), Some(identity))
    }

    /// One that is reached elsewhere, say at the uplink of a [`crate::netns::Lan`].
    pub fn start_on(listener: TcpListener) -> Self {
        Self::start_with(listener, None)
    }

    fn start_with(listener: TcpListener, identity: Option<Arc<rustls::ServerConfig>>) -> Self {
        let origin = Self(Arc::new(Shared {
            address: listener.local_addr().unwrap().to_string(),
            scheme: if identity.is_some() { "https" } else { "http" },
            pages: Mutex::default(),
            seen: Mutex::default(),
            released: (Mutex::new(false), Condvar::new()),
            down: AtomicBool::new(false),
        }));
        let served = origin.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (origin, identity) = (served.clone(), identity.clone());
                std::thread::spawn(move || match identity {
                    Some(identity) => {
                        let session = rustls::ServerConnection::new(identity).unwrap();
                        origin.serve(rustls::StreamOwned::new(session, stream));
                    }
                    None => origin.serve(stream),
                });
            }
        });
        origin
    }

    pub fn address(&self) -> &str {
        &self.0.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.0.scheme, self.0.address)
    }

    pub fn put(&self, path: &str, page: Page) {
        self.0.pages.lock().unwrap().insert(path.into(), page);
    }

    /// What is served under a path now.
    pub fn page(&self, path: &str) -> Page {
        self.0.pages.lock().unwrap()[path].clone()
    }

    pub fn remove(&self, path: &str) {
        self.0.pages.lock().unwrap().remove(path);
    }

    /// All files of a folder, under their relative paths.
    pub fn put_tree(&self, root: &std::path::Path) {
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = format!("/{}", path.strip_prefix(root).unwrap().display());
                    self.put(&name, Page::new(std::fs::read(&path).unwrap()));
                }
            }
        }
    }

    /// Connections are closed without an answer while it is down.
    pub fn set_down(&self, down: bool) {
        self.0.down.store(down, Ordering::SeqCst);
    }

    /// Lets stalled answers go on.
    pub fn release(&self) {
        *self.0.released.0.lock().unwrap() = true;
        self.0.released.1.notify_all();
    }

    fn wait_for_release(&self) {
        let (released, changed) = &self.0.released;
        let guard = released.lock().unwrap();
        drop(changed.wait_timeout_while(guard, Duration::from_secs(60), |released| !*released).unwrap());
    }

    /// Requests for a path so far.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        self.0.seen.lock().unwrap().iter().filter(|seen| seen.path == path).cloned().collect()
    }

    /// Bytes of content sent for paths that end so.
    pub fn sent(&self, suffix: &str) -> usize {
        self.0.seen.lock().unwrap().iter().filter(|seen| seen.path.ends_with(suffix)).map(|seen| seen.sent).sum()
    }

    fn serve(&self, stream: impl Read + Write) {
        let mut reader = BufReader::new(stream);
        while let Some(mut seen) = read_request(&mut reader) {
            if self.0.down.load(Ordering::SeqCst) {
                return;
            }
            seen.path = seen.path.strip_prefix(&format!("http://{}", self.0.address)).unwrap_or(&seen.path).to_owned();
            let (index, page) = {
                let mut all = self.0.seen.lock().unwrap();
                all.push(seen.clone());
                (all.len() - 1, self.0.pages.lock().unwrap().get(&seen.path).cloned())
            };
            let count = |sent| self.0.seen.lock().unwrap()[index].sent += sent;
            if !self.answer(reader.get_mut(), &seen, page, count) {
                return;
            }
        }
    }

    /// Answers one request; says whether the connection can be used again.
    fn answer(&self, stream: &mut impl Write, seen: &Seen, page: Option<Page>, count: impl Fn(usize)) -> bool {
        let Some(page) = page else { return short(stream, 404, "not here\n") };
        match &page.trouble {
            Trouble::Status(status) => return short(stream, *status, "trouble\n"),
            Trouble::MovedTo(url) => {
                let head = format!("HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n");
                return stream.write_all(head.as_bytes()).is_ok();
            }
            _ => {}
        }
        if page.trouble == Trouble::Mute {
            self.wait_for_release();
        }
        let mut head = String::new();
        if seen.method == "POST" || seen.method == "PUT" {
            page.fields.iter().for_each(|line| head.push_str(&format!("{line}\r\n")));
            let text = format!("{} {}", seen.method, sha256(&seen.body));
            let head = format!("HTTP/1.1 201 Created\r\n{head}Content-Length: {}\r\n\r\n{text}", text.len());
            return stream.write_all(head.as_bytes()).is_ok();
        }
        page.etag.iter().for_each(|tag| head.push_str(&format!("ETag: {tag}\r\n")));
        page.modified.iter().for_each(|date| head.push_str(&format!("Last-Modified: {date}\r\n")));
        page.fields.iter().for_each(|line| head.push_str(&format!("{line}\r\n")));
        let matches = |name: &str, ours: &Option<String>| {
            seen.fields.contains_key(name) && seen.fields.get(name) == ours.as_ref()
        };
        let condition = seen.fields.contains_key("if-none-match");
        let current = match page.trouble {
            Trouble::NotModified => condition || seen.fields.contains_key("if-modified-since"),
            Trouble::AlwaysNotModified => true,
            _ => matches("if-none-match", &page.etag) || !condition && matches("if-modified-since", &page.modified),
        };
        if current {
            return stream.write_all(format!("HTTP/1.1 304 Not Modified\r\n{head}\r\n").as_bytes()).is_ok();
        }
        let total = page.body.len() * page.times;
        let current = seen
            .fields
            .get("if-range")
            .is_none_or(|v| Some(v) == page.etag.as_ref() || Some(v) == page.modified.as_ref());
        let range = seen.fields.get("range").filter(|_| current && page.trouble != Trouble::NoRanges);
        let (start, end) = match range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
            Some((first, last)) => {
                let end = last.parse::<usize>().map_or(total, |last| (last + 1).min(total));
                (first.parse::<usize>().unwrap(), end)
            }
            None => (0, total),
        };
        if start >= end && total > 0 {
            return short(stream, 416, "");
        }
        let status = match range {
            Some(_) => {
                head.push_str(&format!("Content-Range: bytes {start}-{}/{total}\r\n", end - 1));
                "206 Partial Content"
            }
            None => &format!("{} Status", page.status),
        };
        let announced = end - start + if page.trouble == Trouble::TooShort { 1000 } else { 0 };
        let length = match page.trouble {
            Trouble::NoLength => "Connection: close".into(),
            _ => format!("Content-Length: {announced}"),
        };
        let head = format!("HTTP/1.1 {status}\r\n{head}{length}\r\n\r\n");
        if stream.write_all(head.as_bytes()).is_err() || seen.method == "HEAD" {
            return seen.method == "HEAD";
        }
        self.send(stream, seen, &page, start, end, count)
    }

    fn send(
        &self,
        stream: &mut impl Write,
        seen: &Seen,
        page: &Page,
        start: usize,
        end: usize,
        count: impl Fn(usize),
    ) -> bool {
        let mut at = start;
        while at < end {
            let mut until = end.min(at + 64 * 1024);
            match page.trouble {
                Trouble::CutAt(cut, times) if self.seen(&seen.path).len() <= times => {
                    if at >= cut {
                        return false;
                    }
                    until = until.min(cut);
                }
                Trouble::StallAt(stall) => {
                    if at >= stall {
                        self.wait_for_release();
                    } else {
                        until = until.min(stall);
                    }
                }
                _ => {}
            }
            let in_body = at % page.body.len();
            until = until.min(at - in_body + page.body.len());
            if stream.write_all(&page.body[in_body..in_body + until - at]).is_err() {
                return false;
            }
            count(until - at);
            at = until;
        }
        !matches!(page.trouble, Trouble::TooShort | Trouble::NoLength)
    }
}

fn short(stream: &mut impl Write, status: u16, text: &str) -> bool {
    let answer = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    stream.write_all(answer.as_bytes()).is_ok()
}

fn read_request(reader: &mut impl BufRead) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut fields = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => fields.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let mut body = Vec::new();
    if let Some(length) = fields.get("content-length").and_then(|v| v.parse::<usize>().ok()) {
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
    } else if fields.contains_key("transfer-encoding") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; length + 2];
            reader.read_exact(&mut chunk).ok()?;
            if length == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }
    Some(Seen { method, path, fields, body, sent: 0 })
}
