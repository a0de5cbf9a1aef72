//! Asks a node at its door for clients, over a connection that stays: for programs that ask often, must not hang, and run as another
//! user than the node. Blocking.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

/// Longest answer that is read.
const ANSWER_MAX: u64 = 64 << 20;

/// A line of a head is no longer.
const LINE_MAX: u64 = 16 * 1024;

/// See the module head.
pub(super) struct Session {
    stream: BufReader<TcpStream>,
    host: String,
    patience: Duration,
}

impl Session {
    /// Connects to `HOST:PORT`. Nothing takes longer than `patience`, but to find the address of a name.
    ///
    /// # Errors
    /// Nobody answers there.
    pub(super) fn open(node: &str, patience: Duration) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in node.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, patience) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_write_timeout(Some(patience))?;
                    return Ok(Self { stream: BufReader::new(stream), host: node.to_owned(), patience });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// # Errors
    /// There is no proper answer, or none in time; the session is of no more use then.
    pub(super) fn get(&mut self, path: &str) -> io::Result<Value> {
        self.stream.get_ref().set_read_timeout(Some(self.patience))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.get_mut().write_all(request.as_bytes())?;
        let is_right = self.line()?.split(' ').nth(1) == Some("200");
        let mut length = None;
        loop {
            let line = self.line()?;
            match line.split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse::<u64>().ok();
                }
                None if line.is_empty() => break,
                _ => {}
            }
        }
        let length = length.filter(|length| is_right && *length <= ANSWER_MAX);
        let mut body = vec![0; length.and_then(|it| usize::try_from(it).ok()).ok_or(io::ErrorKind::InvalidData)?];
        self.stream.read_exact(&mut body)?;
        Ok(serde_json::from_slice(&body)?)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.by_ref().take(LINE_MAX).read_line(&mut line)?;
        Ok(line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?.to_owned())
    }

    /// Waits, and says whether the node is still there; returns at once when it ends.
    pub(super) fn lives(&mut self, wait: Duration) -> bool {
        let waited = self.stream.get_ref().set_read_timeout(Some(wait));
        let read = waited.and_then(|()| self.stream.fill_buf().map(<[u8]>::len));
        matches!(read, Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const PATIENCE: Duration = Duration::from_millis(200);

    /// A server on loopback that gives one answer to each connection and closes it.
    fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        address
    }

    #[test]
    fn proper_answers_and_others() {
        let get = |answer| Session::open(&server(answer), PATIENCE).and_then(|mut session| session.get("/x"));
        assert_eq!(get("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]").unwrap(), serde_json::json!([1]));
        for wrong in [
            "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n[1]",
            "HTTP/1.1 200 OK\r\n\r\n[1]",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n[1]",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[1]",
            "220 mail.example.org ESMTP\r\n",
            "",
        ] {
            assert!(get(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_node_that_hangs_or_ends_is_noticed() {
        let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut session = Session::open(&hanging.local_addr().unwrap().to_string(), PATIENCE).unwrap();
        let (accepted, _) = hanging.accept().unwrap();
        assert!(session.get("/x").is_err());
        assert!(session.lives(Duration::from_millis(1)));
        drop(accepted);
        assert!(!session.lives(Duration::from_secs(600)), "at once");
    }
}
