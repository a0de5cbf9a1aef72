//! The other side: an origin that keeps every request byte by byte and lies as it is told, and listeners that nobody may
//! ever reach.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::script::{self, Played};

const HEAD_BYTES_MAX: usize = 3_000_000;
const BODY_BYTES_MAX: usize = 1 << 20;

/// Fields whose values the origin repeats in the body, as careless sites do in links.
const MIRRORED: [&str; 14] = [
    "x-forwarded-host",
    "x-host",
    "x-original-url",
    "x-rewrite-url",
    "forwarded",
    "x-forwarded-scheme",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "origin",
    "referer",
    "user-agent",
    "cookie",
    "authorization",
    "x-http-method-override",
];

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    /// All bytes up to the empty line.
    pub(super) head: Vec<u8>,
    /// Names in lower case, values trimmed; in order.
    pub(super) fields: Vec<(String, String)>,
    /// As on the wire, with the chunk lines.
    pub(super) body: Vec<u8>,
    pub(super) bad_chunk: bool,
}

impl Seen {
    pub(super) fn values(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        !self.values(name).is_empty()
    }

    /// The target without scheme and host.
    fn path(&self) -> &str {
        let Some(rest) = self.target.strip_prefix("http://") else { return &self.target };
        rest.find('/').map_or("", |at| &rest[at..])
    }
}

/// The origin and the forbidden listeners; they end with the process.
pub(super) struct Origin {
    pub(super) port: u16,
    requests: Mutex<Vec<Seen>>,
    /// By the mark in the path.
    lies: Mutex<HashMap<String, String>>,
    trespasses: Mutex<Vec<String>>,
}

impl Origin {
    /// Listens on loopback, and on every address for the secret.
    pub(super) fn start() -> Arc<Self> {
        let (listener, secret) = ports();
        let origin = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            requests: Mutex::default(),
            lies: Mutex::default(),
            trespasses: Mutex::default(),
        });
        origin.clone().forbid(secret);
        let served = origin.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let origin = served.clone();
                std::thread::spawn(move || origin.serve(stream));
            }
        });
        origin
    }

    pub(super) fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn secret_port(&self) -> u16 {
        self.port + 777
    }

    /// Whoever connects to this listener has gone where no request may lead.
    pub(super) fn forbid(self: Arc<Self>, listener: TcpListener) {
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = [0; 1024];
                let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
                self.trespasses.lock().unwrap().push(format!("at {:?}", stream.local_addr()));
                let len = stream.read(&mut head).unwrap_or(0);
                let text = format!("with {:?}", String::from_utf8_lossy(&head[..len]));
                self.trespasses.lock().unwrap().push(text);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nSECRET");
            }
        });
    }

    /// What came to the listeners that must not be reached.
    pub(super) fn trespasses(&self) -> Vec<String> {
        self.trespasses.lock().unwrap().clone()
    }

    /// A request with this mark in its path is answered with the script; `{P}` in it is the path.
    pub(super) fn lie(&self, mark: &str, script: String) {
        self.lies.lock().unwrap().insert(mark.to_owned(), script);
    }

    /// Requests that carry the mark anywhere in their head.
    pub(super) fn seen(&self, mark: &str) -> Vec<Seen> {
        let has_mark = |seen: &&Seen| seen.head.windows(mark.len()).any(|w| w == mark.as_bytes());
        self.requests.lock().unwrap().iter().filter(has_mark).cloned().collect()
    }

    /// All requests so far.
    pub(super) fn everything(&self) -> Vec<Seen> {
        self.requests.lock().unwrap().clone()
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        // Scripts of this side run to their end: a node that is gone ends them by a write error.
        let (_going, over) = mpsc::channel();
        while let Some((seen, index)) = self.request(&mut reader) {
            let path = seen.path().to_owned();
            let lie = {
                let lies = self.lies.lock().unwrap();
                lies.iter().find(|(mark, _)| path.contains(mark.as_str())).map(|(_, script)| script.clone())
            };
            let done = match lie {
                Some(script) => script::play(&script::parse(&script.replace("{P}", &path)), &mut stream, &over),
                None => stream.write_all(&honest(&seen)).map(|()| Played::Open),
            };
            let broken = self.requests.lock().unwrap()[index].bad_chunk;
            if broken || !matches!(done, Ok(Played::Open)) {
                return;
            }
        }
    }

    /// Reads a request; it is in the list as soon as its head is here.
    fn request(&self, reader: &mut BufReader<TcpStream>) -> Option<(Seen, usize)> {
        let _ = reader.get_ref().set_read_timeout(None);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            reader.read_until(b'\n', &mut head).ok().filter(|n| *n > 0)?;
            if head.len() > HEAD_BYTES_MAX {
                return None;
            }
        }
        let mut seen = Seen::of(head);
        let index = {
            let mut requests = self.requests.lock().unwrap();
            requests.push(seen.clone());
            requests.len() - 1
        };
        let _ = reader.get_ref().set_read_timeout(Some(Duration::from_secs(5)));
        let read = read_body(reader, &mut seen);
        self.requests.lock().unwrap()[index] = seen.clone();
        read.map(|()| (seen, index))
    }
}

impl Seen {
    fn of(head: Vec<u8>) -> Self {
        let text: String = head.iter().map(|b| char::from(*b)).collect();
        let mut lines = text.trim_start().split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
        let fields = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self {
            method: words.next().unwrap_or_default(),
            target: words.next().unwrap_or_default(),
            fields,
            head,
            body: Vec::new(),
            bad_chunk: false,
        }
    }
}

/// `None` when it does not come.
fn read_body(reader: &mut BufReader<TcpStream>, seen: &mut Seen) -> Option<()> {
    let chunked = seen.values("transfer-encoding").last().is_some_and(|v| v.to_ascii_lowercase().contains("chunked"));
    if !chunked {
        let length = seen.values("content-length").first().and_then(|v| v.parse::<usize>().ok());
        seen.body = vec![0; length.unwrap_or(0).min(BODY_BYTES_MAX)];
        return reader.read_exact(&mut seen.body).ok();
    }
    loop {
        let mut line = Vec::new();
        // One that breaks off in the middle of its body says nothing ambiguous.
        reader.read_until(b'\n', &mut line).ok().filter(|_| line.ends_with(b"\n"))?;
        seen.body.extend_from_slice(&line);
        let size = String::from_utf8_lossy(&line).split(';').next().unwrap_or_default().trim().to_owned();
        let Some(size) = usize::from_str_radix(&size, 16).ok().filter(|size| *size <= BODY_BYTES_MAX) else {
            seen.bad_chunk = true;
            return Some(());
        };
        if size == 0 {
            break;
        }
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        seen.body.extend_from_slice(&chunk);
    }
    loop {
        let mut trailer = Vec::new();
        reader.read_until(b'\n', &mut trailer).ok()?;
        seen.body.extend_from_slice(&trailer);
        if matches!(trailer.as_slice(), b"\r\n" | b"\n" | b"") {
            return Some(());
        }
    }
}

/// An answer that says what was asked; `?size=N` makes it longer, `?vary=1` and `?vary=star` add the field.
fn honest(seen: &Seen) -> Vec<u8> {
    let line = |name: &str, label: &str| format!("{label}={}\n", seen.values(name).join(","));
    let mirrored: String = MIRRORED.iter().filter(|name| seen.has(name)).map(|name| line(name, name)).collect();
    let size = seen.target.split_once("size=").map_or("", |(_, rest)| rest);
    let digits = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    let body = format!(
        "METHOD={}\nTARGET={}\n{}{}{mirrored}END\n{}",
        seen.method,
        seen.path(),
        line("host", "HOST"),
        line("accept-encoding", "AE"),
        "z".repeat(size[..digits].parse().unwrap_or(0))
    );
    let vary = match () {
        () if seen.target.contains("vary=1") => "Vary: Accept-Encoding\r\n",
        () if seen.target.contains("vary=star") => "Vary: *\r\n",
        () => "",
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nETag: \"v1\"\r\nContent-Type: text/plain\r\n{vary}\
         Content-Length: {}\r\n\r\n",
        body.chars().count()
    );
    script::latin1(&if seen.method == "HEAD" { head } else { head + &body })
}

/// A port for the origin and one 777 above it for the secret, on every address of both families.
fn ports() -> (TcpListener, TcpListener) {
    for _ in 0..100 {
        let origin = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = origin.local_addr().unwrap().port();
        if let Some(Ok(secret)) = port.checked_add(777).map(|port| TcpListener::bind(("::", port))) {
            return (origin, secret);
        }
    }
    panic!("no pair of ports is free");
}
