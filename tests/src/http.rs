//! A small HTTP/1.1 client that shows exactly what came.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body is as long as was announced, or its last chunk has come.
    pub complete: bool,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// One connection.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(address: &str) -> Self {
        Self::over(TcpStream::connect(address).expect("the node accepts connections"))
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, request: &str) {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// Reads a head; the body is still to come.
    pub fn head(&mut self) -> Option<(u16, Vec<(String, String)>)> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut fields = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).ok().filter(|n| *n > 0)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => fields.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                None => return Some((status, fields)),
            }
        }
    }

    /// At most `len` bytes of the body; fewer only when the connection ends.
    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut got = 0;
        while got < len {
            match self.0.read(&mut bytes[got..]) {
                Ok(0) | Err(_) => break,
                Ok(n) => got += n,
            }
        }
        bytes.truncate(got);
        bytes
    }

    /// A whole answer.
    pub fn answer(&mut self, head_only: bool) -> Option<Answer> {
        let (status, fields) = self.head()?;
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        let length = field("content-length").and_then(|v| v.parse::<usize>().ok());
        let (body, complete) = if head_only || status == 304 || status == 204 {
            (Vec::new(), true)
        } else if field("transfer-encoding").is_some() {
            self.chunks()
        } else {
            let body = self.read(length.unwrap_or(usize::MAX >> 20));
            let complete = length.is_none_or(|length| body.len() == length);
            (body, complete)
        };
        Some(Answer { status, fields, body, complete })
    }

    fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap_or(0) == 0 {
                return (body, false);
            }
            let Ok(len) = usize::from_str_radix(line.trim(), 16) else { return (body, false) };
            let chunk = self.read(len + 2);
            if chunk.len() < len + 2 {
                return (body, false);
            }
            if len == 0 {
                return (body, true);
            }
            body.extend_from_slice(&chunk[..len]);
        }
    }
}

/// One request on a connection of its own. `fields` are whole lines.
pub fn request(address: &str, method: &str, target: &str, host: &str, fields: &[&str]) -> Answer {
    request_over(Connection::open(address), method, target, host, fields)
}

/// The only request on this connection.
pub fn request_over(mut connection: Connection, method: &str, target: &str, host: &str, fields: &[&str]) -> Answer {
    let fields: String = fields.iter().map(|line| format!("{line}\r\n")).collect();
    connection.send(&format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n"));
    connection.answer(method == "HEAD").expect("an answer")
}
