//! The client against servers that say exactly what a test tells them to, byte by byte.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, IF_NONE_MATCH, USER_AGENT};
use http_body::Body;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::config::{AllowedDestination, ParentProxy, Secret};
use crate::os::clock::Timestamp;

/// What a server does with a connection, in order; then it closes it.
#[derive(Clone)]
enum Step {
    /// Reads a request, then writes this.
    Answer(&'static str),
    /// Reads a request and nothing more happens until the other side leaves.
    Hang,
    /// Ends with a reset instead of a proper end.
    Reset,
    /// Sends a byte a second for as long as anybody listens.
    Trickle,
    /// Closes the connection and tells the test.
    CloseNow,
    /// Goes on in TLS with this identity.
    Tls(tokio_rustls::TlsAcceptor),
}
use Step::{Answer as Say, CloseNow, Hang, Reset, Trickle};

/// A server that plays a script to each connection in turn.
struct Origin {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    accepted: Arc<AtomicUsize>,
    closed: mpsc::UnboundedReceiver<()>,
}

impl Origin {
    async fn start(connections: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, accepted) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (close, closed) = mpsc::unbounded_channel();
        let (log, count) = (requests.clone(), accepted.clone());
        tasks::spawn("origin", async move {
            for script in connections {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tasks::spawn("connection", play(stream, script, log.clone(), close.clone()));
            }
            // Whoever comes now was not expected: it is counted and left waiting.
            let mut surplus = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                surplus.push(stream);
            }
        });
        Self { address, requests, accepted, closed }
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}{path}", self.address)).unwrap()
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn as_parent(&self, credentials: Option<&str>) -> Option<ParentProxy> {
        let credentials = credentials.map(|c| Secret(c.into()));
        Some(ParentProxy { host: "127.0.0.1".into(), port: self.address.port(), credentials })
    }
}

async fn play(
    mut stream: TcpStream,
    script: Vec<Step>,
    log: Arc<Mutex<Vec<String>>>,
    close: mpsc::UnboundedSender<()>,
) {
    for (index, step) in script.iter().enumerate() {
        match step {
            Step::Tls(acceptor) => {
                // A client that does not like the certificate leaves here.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                for step in &script[index + 1..] {
                    let Say(answer) = step else { panic!("only answers in TLS") };
                    let Some(request) = read_request(&mut stream).await else { return };
                    log.lock().unwrap().push(request);
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                let _ = stream.shutdown().await;
                return;
            }
            Reset => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            Trickle => {
                while stream.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            CloseNow => {
                drop(stream);
                close.send(()).unwrap();
                return;
            }
            Say(_) | Hang => {
                let Some(request) = read_request(&mut stream).await else { return };
                log.lock().unwrap().push(request);
                match step {
                    Say(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                    _ => {
                        let _ = stream.read_u8().await;
                    }
                }
            }
        }
    }
}

/// A head, and the body that its fields announce.
async fn read_request(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Option<String> {
    let mut request = Vec::new();
    let read_byte = async |stream: &mut _, request: &mut Vec<u8>| {
        request.push(AsyncReadExt::read_u8(stream).await.ok()?);
        Some(())
    };
    while !request.ends_with(b"\r\n\r\n") {
        read_byte(stream, &mut request).await?;
    }
    let head = String::from_utf8(request.clone()).unwrap().to_ascii_lowercase();
    if let Some((_, length)) = head.split_once("content-length: ") {
        let length: usize = length.split("\r\n").next()?.parse().ok()?;
        for _ in 0..length {
            read_byte(stream, &mut request).await?;
        }
    } else if head.contains("transfer-encoding: chunked") {
        while !request.ends_with(b"\r\n0\r\n\r\n") {
            read_byte(stream, &mut request).await?;
        }
    }
    Some(String::from_utf8(request).unwrap())
}

fn config(parent: Option<ParentProxy>) -> config::Upstream {
    let allow = vec![AllowedDestination { net: "127.0.0.1/32".parse().unwrap(), port: None }];
    config::Upstream { proxy: parent, no_proxy: Vec::new(), allow, rate_limit: None }
}

fn client_of(config: &config::Upstream) -> Upstreams {
    let own = Own { port: 1, addresses: Vec::new() };
    Upstreams::new(config, own, Clock::manual(Timestamp(1_000_000)))
}

fn client() -> Upstreams {
    client_of(&config(None))
}

const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(20), head: Duration::from_secs(20), stall: Duration::from_secs(20) };

fn get(url: Url) -> Request {
    Request { method: Method::GET, url, fields: HeaderMap::new(), body: None, patience: PATIENCE }
}

async fn read(mut answer: Answer) -> Result<String, Fault> {
    let mut all = Vec::new();
    while let Some(chunk) = answer.body.chunk().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8(all).unwrap())
}

/// What becomes of one answer to a GET: status and body, or the label of the fault.
async fn outcome(steps: &[Step]) -> Result<(u16, String), &'static str> {
    let origin = Origin::start(vec![steps.to_vec()]).await;
    let answer = client().send(get(origin.url("/"))).await.map_err(|fault| fault.label())?;
    let status = answer.status.as_u16();
    Ok((status, read(answer).await.map_err(|fault| fault.label())?))
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_connection_is_used_again_and_fields_are_those_of_the_message() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\r\nok";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let origin = Origin::start(vec![vec![Say(answer), Say(chunked), Say(OK)]]).await;
    let client = client();
    let mut request = get(origin.url("/a?b"));
    request.fields.insert("connection", "close, x-mine".parse().unwrap());
    request.fields.insert("x-mine", "1".parse().unwrap());
    request.fields.insert("host", "elsewhere.example.org".parse().unwrap());
    request.fields.insert("expect", "100-continue".parse().unwrap());
    request.fields.insert(USER_AGENT, "test".parse().unwrap());
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.body.length(), Some(2));
    assert_eq!(answer.via, Hop::Direct(origin.address));
    assert!(answer.fields.get("x-end").is_some() && answer.fields.get("x-hop").is_none());
    assert_eq!(read(answer).await.unwrap(), "ok");
    let answer = client.send(get(origin.url("/"))).await.unwrap();
    assert!(answer.fields.is_empty() && answer.body.length().is_none());
    assert_eq!(read(answer).await.unwrap(), "ok");
    assert_eq!(read(client.send(get(origin.url("/"))).await.unwrap()).await.unwrap(), "ok");
    assert_eq!(origin.accepted(), 1);
    let expected = format!("GET /a?b HTTP/1.1\r\nHost: {}\r\nUser-Agent: test\r\n\r\n", origin.address);
    assert_eq!(origin.requests()[0], expected);
}

#[tokio::test]
async fn the_first_bytes_of_every_answer_come_in_a_small_piece() {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(1_000_000)).leak();
    let origin = Origin::start(vec![vec![Say(answer); 3]]).await;
    let client = client();
    for _ in 0..3 {
        let mut body = client.send(get(origin.url("/"))).await.unwrap().body;
        let mut pieces = Vec::new();
        while let Some(piece) = body.chunk().await.unwrap() {
            pieces.push(piece.len());
        }
        assert_eq!(pieces.iter().sum::<usize>(), 1_000_000);
        assert!(pieces[0] < 32 * 1024 && *pieces.iter().max().unwrap() > 32 * 1024, "{pieces:?}");
    }
    assert_eq!(origin.accepted(), 1);
}

#[tokio::test]
async fn the_connection_is_free_with_the_last_byte_and_after_an_answer_without_a_body() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    let origin = Origin::start(vec![vec![Say(OK), Say(head), Say("HTTP/1.1 204 No\r\n\r\n"), Say(OK)]]).await;
    let client = client();
    let mut answer = client.send(get(origin.url("/"))).await.unwrap();
    assert_eq!(answer.body.chunk().await.unwrap().unwrap(), "ok");
    let second = client.send(Request { method: Method::HEAD, ..get(origin.url("/")) }).await.unwrap();
    assert_eq!(second.fields[CONTENT_LENGTH], "1000");
    assert!(second.body.is_end_stream());
    let third = client.send(get(origin.url("/"))).await.unwrap();
    assert_eq!(third.status, StatusCode::NO_CONTENT);
    client.send(get(origin.url("/"))).await.unwrap();
    assert_eq!(origin.accepted(), 1);
}

#[tokio::test]
async fn an_idle_connection_that_died_is_replaced_without_a_word() {
    let mut origin = Origin::start(vec![vec![Say(OK), CloseNow], vec![Say(OK), Hang], vec![Say(OK)]]).await;
    let client = client();
    for _ in 0..2 {
        assert_eq!(read(client.send(get(origin.url("/"))).await.unwrap()).await.unwrap(), "ok");
        if origin.accepted() == 1 {
            origin.closed.recv().await.unwrap();
        }
    }
    assert_eq!(origin.accepted(), 2);
}

#[tokio::test]
async fn a_connection_that_dies_under_the_request_is_replaced_only_for_what_may_be_said_twice() {
    // The first connection takes a second request and closes without an answer.
    let dies = || vec![Say(OK), Say("")];
    for (method, accepted, answered) in [(Method::GET, 2, true), (Method::DELETE, 2, true), (Method::POST, 2, true)] {
        let origin = Origin::start(vec![dies(), vec![Say(OK)]]).await;
        let client = client();
        read(client.send(get(origin.url("/"))).await.unwrap()).await.unwrap();
        let request = Request { method: method.clone(), ..get(origin.url("/second")) };
        assert_eq!(client.send(request).await.is_ok(), answered);
        assert_eq!(origin.accepted(), accepted);
        // A POST has never been on the idle connection.
        let seconds = origin.requests().iter().filter(|r| r.contains("/second")).count();
        assert_eq!(seconds, if method == Method::POST { 1 } else { 2 });
    }
    // Half an answer is no reason to ask again.
    let half = vec![Say(OK), Say("HTTP/1.1 200 OK\r\nCont")];
    let origin = Origin::start(vec![half, vec![Say(OK)]]).await;
    let client = client();
    read(client.send(get(origin.url("/"))).await.unwrap()).await.unwrap();
    assert_eq!(client.send(get(origin.url("/"))).await.err().unwrap().label(), "truncated");
    assert_eq!(origin.accepted(), 1);
}

#[tokio::test]
async fn answers_that_break_off_or_break_http() {
    let ok = |text: &str| Ok((200, text.to_owned()));
    for (steps, expected) in [
        (&[Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")][..], Err("truncated")),
        (&[Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Reset], Err("truncated")),
        (&[Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")], Err("truncated")),
        (&[Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nhello\r\n0\r\n\r\n")], Err("malformed")),
        (&[Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc")], Err("malformed")),
        (
            &[Say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n")],
            ok("hello"),
        ),
        (&[Say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nhello")], Err("malformed")),
        (&[Say("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello")], Err("malformed")),
        (&[Say("HTTP/1.1 200 OK\r\n\r\nuntil the end")], ok("until the end")),
        (&[Say("HTTP/1.0 200 OK\r\n\r\nuntil the end")], ok("until the end")),
        (&[Say("HTTP/1.1 200 OK\r\n\r\nabc"), Reset], Err("truncated")),
        (&[Say("")], Err("truncated")),
        (&[Say(""), Reset], Err("truncated")),
        (&[Say("HTTP/1.1 200 OK\r\nX: ")], Err("truncated")),
        (&[Say("<html>hi</html>")], Err("malformed")),
        (
            &[Say("HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-2/9\r\nContent-Length: 3\r\n\r\nabc")],
            Err("malformed"),
        ),
        (&[Say("HTTP/1.1 304 Not Modified\r\n\r\n")], Err("malformed")),
        (&[Say("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: evil\r\n\r\nxx")], Err("malformed")),
        (&[Say("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")], ok("ok")),
        (&[Say("HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n")], Err("malformed")),
        (&[Say("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n")], Err("malformed")),
        (&[Say("HTTP/1.1 -20 OK\r\nContent-Length: 0\r\n\r\n")], Err("malformed")),
        (&[Say("HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok")], Ok((999, "ok".into()))),
        (&[Say("HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: evil=1\r\nContent-Length: 2\r\n\r\nok")], Err("malformed")),
        (&[Say("HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\nok")], Err("malformed")),
        (&[Say("HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok")], Err("malformed")),
    ] {
        let script = match steps {
            [Say(text), ..] => *text,
            _ => "",
        };
        assert_eq!(outcome(steps).await, expected, "{script:?}");
    }
}

#[tokio::test]
async fn a_broken_body_never_ends_properly_and_its_connection_is_not_used_again() {
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
    let surplus = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let origin = Origin::start(vec![vec![Say(short)], vec![Say(surplus), Hang], vec![Say(OK)]]).await;
    let client = client();
    let mut answer = client.send(get(origin.url("/"))).await.unwrap();
    while answer.body.chunk().await.is_ok() {}
    assert!(answer.body.chunk().await.is_err());
    // Bytes behind the end of an answer are nobody's answer.
    assert_eq!(read(client.send(get(origin.url("/"))).await.unwrap()).await.unwrap(), "ok");
    assert_eq!(read(client.send(get(origin.url("/"))).await.unwrap()).await.unwrap(), "ok");
    assert_eq!(origin.accepted(), 3);
}

#[tokio::test]
async fn heads_are_bounded() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(100_000)).leak();
    assert_eq!(outcome(&[Say(long)]).await.unwrap_err(), "malformed");
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(200)).leak();
    assert_eq!(outcome(&[Say(many)]).await.unwrap_err(), "malformed");
}

#[tokio::test(start_paused = true)]
async fn patience_ends_before_the_head_and_within_the_body() {
    let origin =
        Origin::start(vec![vec![Hang], vec![Say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Hang]]).await;
    let client = client();
    let fault = client.send(get(origin.url("/"))).await.err().unwrap();
    assert_eq!(fault.cause, Cause::NoAnswer { host: "127.0.0.1".into(), waited_ms: 20_000 });
    let mut answer = client.send(get(origin.url("/"))).await.unwrap();
    assert_eq!(answer.body.chunk().await.unwrap().unwrap(), "abc");
    let fault = answer.body.chunk().await.unwrap_err();
    assert_eq!(fault.cause, Cause::Stalled { host: "127.0.0.1".into(), waited_ms: 20_000 });
    assert_eq!(answer.body.chunk().await.unwrap_err(), fault);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_only_trickles_is_given_up_and_one_that_has_come_is_not() {
    let head = |length: u32| Say(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").leak());
    let origin = Origin::start(vec![vec![head(9000), Trickle], vec![head(21), Trickle]]).await;
    let client = client();
    let mut answer = client.send(get(origin.url("/"))).await.unwrap();
    let mut received = 0;
    let fault = loop {
        match answer.body.chunk().await {
            Ok(piece) => received += piece.expect("the end is far").len(),
            Err(fault) => break fault,
        }
    };
    assert_eq!(fault.label(), "too-slow");
    assert!((15..=25).contains(&received), "{received} bytes in as many seconds");
    assert_eq!(answer.body.chunk().await.unwrap_err(), fault);
    assert_eq!(read(client.send(get(origin.url("/"))).await.unwrap()).await.unwrap().len(), 21);
}

/// A body that a test sends piece by piece.
fn piecewise() -> (mpsc::Sender<Result<&'static str, &'static str>>, OutBody) {
    let (pieces, receiver) = mpsc::channel(1);
    let stream = futures_util::stream::unfold(receiver, |mut receiver: mpsc::Receiver<_>| async move {
        let piece: Result<&'static str, &'static str> = receiver.recv().await?;
        Some((piece.map(|p| http_body::Frame::data(Bytes::from(p))).map_err(Into::into), receiver))
    });
    (pieces, StreamBody::new(stream).boxed_unsync())
}

#[tokio::test(start_paused = true)]
async fn an_upload_streams_and_may_take_longer_than_an_answer_may() {
    let origin = Origin::start(vec![vec![Say(OK)]]).await;
    let (pieces, body) = piecewise();
    let request = Request { method: Method::PUT, body: Some(body), ..get(origin.url("/")) };
    let sending = client();
    let sent = tasks::spawn("send", async move { sending.send(request).await });
    for piece in ["one", "two", "three"] {
        pieces.send(Ok(piece)).await.unwrap();
        tokio::time::sleep(PATIENCE.head * 2 / 3).await;
    }
    drop(pieces);
    assert_eq!(sent.await.unwrap().unwrap().status, StatusCode::OK);
    let request = &origin.requests()[0];
    assert!(request.contains("Transfer-Encoding: chunked"), "{request}");
    assert!(request.ends_with("3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"), "{request}");
}

#[tokio::test]
async fn an_upload_keeps_its_length_and_one_that_breaks_off_is_the_clients_fault() {
    let origin = Origin::start(vec![vec![Say(OK)], vec![Hang]]).await;
    let client = client();
    let (pieces, body) = piecewise();
    let mut request = Request { method: Method::POST, body: Some(body), ..get(origin.url("/")) };
    request.fields.insert(CONTENT_LENGTH, "3".parse().unwrap());
    pieces.send(Ok("one")).await.unwrap();
    drop(pieces);
    assert!(client.send(request).await.is_ok());
    assert!(origin.requests()[0].ends_with("\r\n\r\none"));
    let (pieces, body) = piecewise();
    pieces.send(Err("the client left")).await.unwrap();
    let request = Request { method: Method::POST, body: Some(body), ..get(origin.url("/")) };
    let fault = client.send(request).await.err().unwrap();
    assert_eq!((fault.whose, fault.label()), (Whose::Client, "bad-request"));
    assert!(client.down(&origin.url("/")).is_none());
}

#[tokio::test]
async fn forbidden_destinations_are_never_dialled() {
    let origin = Origin::start(vec![]).await;
    let port = origin.address.port();
    let forbid = |allow| {
        let own = Own { port: 1, addresses: Vec::new() };
        Upstreams::new(&config::Upstream { allow, ..config(None) }, own, Clock::system())
    };
    let other_port = AllowedDestination { net: "127.0.0.1/32".parse().unwrap(), port: Some(port ^ 1) };
    let client = forbid(vec![other_port]);
    for host in
        ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"]
    {
        let url = Url::parse(&format!("http://{host}:{port}/")).unwrap();
        let fault = client.send(get(url.clone())).await.err().unwrap();
        assert_eq!((fault.whose, fault.label()), (Whose::Client, "destination-forbidden"), "{host}");
        assert!(client.tunnel(url.host(), port, &HeaderMap::new(), PATIENCE.connect).await.is_err());
        assert!(client.down(&url).is_none());
    }
    // This node itself stays forbidden even where the address is permitted.
    let own = Own { port, addresses: Vec::new() };
    let itself = Upstreams::new(&config(None), own, Clock::system());
    assert_eq!(itself.send(get(origin.url("/"))).await.err().unwrap().label(), "destination-forbidden");
    assert_eq!(origin.accepted(), 0);
}

/// A client whose names have these addresses, the first time, the second time and so on; and how often it has asked.
fn resolving(clock: &Clock, answers: &[&[&str]]) -> (Upstreams, Arc<AtomicUsize>) {
    let answers: Vec<Vec<std::net::IpAddr>> =
        answers.iter().map(|answer| answer.iter().map(|a| a.parse().unwrap()).collect()).collect();
    let count = Arc::new(AtomicUsize::new(0));
    let asked = count.clone();
    let system = Arc::new(move |_: &str| Ok(answers[asked.fetch_add(1, Ordering::SeqCst)].clone()));
    let allow = ["127.0.0.1/32", "::1/128"].map(|net| AllowedDestination { net: net.parse().unwrap(), port: None });
    let config = config::Upstream { allow: allow.into(), ..config(None) };
    let resolver = Resolver::asking(system, clock.clone());
    let connector = Connector::new(config.clone(), Own { port: 1, addresses: Vec::new() }, resolver, Tls::default());
    (Upstreams::connecting(connector, &config, clock.clone()), count)
}

/// A server on 127.0.0.2 that must not be asked.
struct Unvisited(std::net::TcpListener);

impl Unvisited {
    fn listen(port: u16) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.2", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn check(&self) {
        assert_eq!(self.0.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody has come");
    }
}

#[tokio::test]
async fn of_a_names_addresses_only_permitted_ones_are_dialled() {
    let origin = Origin::start(vec![vec![Say(OK)], vec![Say(OK)]]).await;
    let port = origin.address.port();
    let inner = Unvisited::listen(port);
    let url = Url::parse(&format!("http://mirror.example.org:{port}/")).unwrap();
    // The second of these has nobody on that port: the next one is tried at once.
    for answer in [&["127.0.0.2", "127.0.0.1"][..], &["::1", "127.0.0.2", "127.0.0.1"]] {
        let (client, asked) = resolving(&Clock::manual(Timestamp(0)), &[answer]);
        let answer = client.send(get(url.clone())).await.unwrap();
        assert_eq!((answer.via, asked.load(Ordering::SeqCst)), (Hop::Direct(origin.address), 1));
    }
    let (client, _) = resolving(&Clock::manual(Timestamp(0)), &[&["127.0.0.2", "169.254.169.254"]]);
    assert_eq!(client.send(get(url)).await.err().unwrap().label(), "destination-forbidden");
    inner.check();
}

#[tokio::test]
async fn a_name_that_turns_to_a_forbidden_address_is_judged_again() {
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let origin = Origin::start(vec![vec![Say(last)]]).await;
    let port = origin.address.port();
    let inner = Unvisited::listen(port);
    let url = Url::parse(&format!("http://rebind.example.org:{port}/")).unwrap();
    let clock = Clock::manual(Timestamp(0));
    let (client, asked) = resolving(&clock, &[&["127.0.0.1"], &["127.0.0.2"]]);
    assert_eq!(read(client.send(get(url.clone())).await.unwrap()).await.unwrap(), "ok");
    clock.advance(Duration::from_secs(60));
    assert_eq!(client.send(get(url)).await.err().unwrap().label(), "destination-forbidden");
    assert_eq!((asked.load(Ordering::SeqCst), origin.accepted()), (2, 1));
    inner.check();
}

#[tokio::test]
async fn redirects_are_followed_and_each_destination_is_judged() {
    let secret = Origin::start(vec![]).await;
    let to_secret = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2:{}/\r\nContent-Length: 0\r\n\r\n",
        secret.address.port()
    );
    let relative = "HTTP/1.1 301 Moved\r\nLocation: ../b?c\r\nContent-Length: 5\r\n\r\nmoved";
    let origin = Origin::start(vec![vec![Say(relative), Say(OK), Say(to_secret.leak())]]).await;
    let client = client();
    let answer = client.fetch(get(origin.url("/x/y/a"))).await.unwrap();
    assert_eq!(answer.url, origin.url("/x/b?c"));
    assert_eq!(read(answer).await.unwrap(), "ok");
    let fault = client.fetch(get(origin.url("/"))).await.err().unwrap();
    assert_eq!((fault.whose, fault.label()), (Whose::Upstream, "destination-forbidden"));
    assert_eq!((origin.accepted(), secret.accepted()), (1, 0));
}

#[tokio::test]
async fn redirects_end() {
    let to = |location: &str| -> Step {
        Say(format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").leak())
    };
    let fault = async |steps: Vec<Step>| {
        let origin = Origin::start(vec![steps]).await;
        client().fetch(get(origin.url("/0"))).await.err().map(|fault| fault.label())
    };
    assert_eq!(fault(vec![to("/0")]).await, Some("redirect-loop"));
    assert_eq!(fault(vec![to("/1"), to("/0")]).await, Some("redirect-loop"));
    assert_eq!(fault((1..20).map(|i| to(&format!("/{i}"))).collect()).await, Some("redirect-loop"));
    assert_eq!(fault((1..=10).map(|i| to(&format!("/{i}"))).chain([Say(OK)]).collect()).await, None);
    assert_eq!(fault(vec![to("ftp://example.org/")]).await, Some("malformed"));
    // Without a target it is an answer like any other.
    assert_eq!(fault(vec![Say("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n")]).await, None);
}

#[tokio::test]
async fn what_tells_who_the_client_is_stays_with_the_server_it_was_meant_for() {
    let second = Origin::start(vec![vec![Say(OK)]]).await;
    let away = format!("HTTP/1.1 307 Away\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", second.url("/")).leak();
    let same = "HTTP/1.1 307 Here\r\nLocation: /same\r\nContent-Length: 0\r\n\r\n";
    let first = Origin::start(vec![vec![Say(same), Say(away)]]).await;
    let mut request = get(first.url("/"));
    request.fields.insert(AUTHORIZATION, "Basic dTpw".parse().unwrap());
    request.fields.insert(IF_NONE_MATCH, "\"v\"".parse().unwrap());
    client().fetch(request).await.unwrap();
    assert!(first.requests()[1].contains("Authorization"));
    assert!(!second.requests()[0].contains("Authorization") && second.requests()[0].contains("If-None-Match"));
}

#[tokio::test]
async fn plain_http_goes_through_the_parent_in_absolute_form_on_one_connection() {
    let denied = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
    let parent = Origin::start(vec![vec![Say(OK), Say(OK), Say(denied)]]).await;
    let client = client_of(&config(parent.as_parent(Some("user:pass"))));
    for host in ["a.example.org", "b.example.org"] {
        let answer = client.send(get(Url::parse(&format!("http://{host}/x?y")).unwrap())).await.unwrap();
        assert_eq!(answer.via, Hop::Parent("127.0.0.1".into()));
        assert_eq!(read(answer).await.unwrap(), "ok");
    }
    assert_eq!(
        parent.requests()[0],
        "GET http://a.example.org/x?y HTTP/1.1\r\nHost: a.example.org\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n"
    );
    let fault = client.send(get(Url::parse("http://c.example.org/").unwrap())).await.err().unwrap();
    assert_eq!(fault.label(), "parent-proxy");
    assert!(client.send(get(Url::parse("http://127.0.0.2/").unwrap())).await.is_err());
    assert!(client.send(get(Url::parse("http://localhost/").unwrap())).await.is_err());
    assert_eq!((parent.accepted(), parent.requests().len()), (1, 3));
}

#[tokio::test]
async fn a_parent_is_never_bypassed_but_for_no_proxy() {
    let (parent, origin) = (Origin::start(vec![vec![Reset]]).await, Origin::start(vec![vec![Say(OK)]]).await);
    let mut config = config(parent.as_parent(None));
    let through = client_of(&config);
    assert!(through.send(get(origin.url("/"))).await.is_err());
    assert_eq!((parent.accepted(), origin.accepted()), (1, 0));
    config.no_proxy = vec!["127.0.0.0/8".into()];
    assert!(client_of(&config).send(get(origin.url("/"))).await.is_ok());
    assert_eq!((parent.accepted(), origin.accepted()), (1, 1));
}

#[tokio::test]
async fn an_unreachable_parent_is_remembered_for_all_hosts_behind_it() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let parent = ParentProxy { host: "127.0.0.1".into(), port: unused.port(), credentials: None };
    let client = client_of(&config(Some(parent)));
    let url = |host: &str| Url::parse(&format!("http://{host}.example.org/")).unwrap();
    let fault = client.send(get(url("a"))).await.err().unwrap();
    assert_eq!(fault.label(), "refused");
    assert!(fault.to_string().starts_with(&format!("the parent proxy {unused}")), "{fault}");
    assert!(client.down(&url("a")).is_some() && client.down(&url("b")).is_some());
    let parent = ParentProxy { host: "nowhere.invalid".into(), port: 3128, credentials: None };
    let fault = client_of(&config(Some(parent)))
        .tunnel("example.org", 443, &HeaderMap::new(), PATIENCE.connect)
        .await
        .unwrap_err();
    assert!(fault.label() == "name-not-found" && fault.to_string().contains("the parent proxy nowhere"), "{fault}");
}

#[tokio::test]
async fn tunnels_through_the_parent() {
    let parent = Origin::start(vec![
        vec![Say("HTTP/1.1 200 OK\r\n\r\nhello")],
        vec![Say("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")],
    ])
    .await;
    let client = client_of(&config(parent.as_parent(None)));
    let (mut stream, _) = client.tunnel("example.org", 443, &HeaderMap::new(), PATIENCE.connect).await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "hello");
    assert_eq!(parent.requests()[0], "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n");
    assert_eq!(
        client.tunnel("example.org", 443, &HeaderMap::new(), PATIENCE.connect).await.unwrap_err().label(),
        "parent-proxy"
    );
    assert_eq!(
        client.tunnel("127.2", 443, &HeaderMap::new(), PATIENCE.connect).await.unwrap_err().label(),
        "destination-forbidden"
    );
}

/// An identity for a name, from a certificate authority, valid in these years; and that authority's root.
fn identity(name: &str, years: (i32, i32)) -> (Step, rustls::RootCertStore) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // No two of them have one name.
    let ca_name = format!("CA {:x?}", ca_key.public_key_raw());
    ca.distinguished_name.push(rcgen::DnType::CommonName, ca_name);
    let root = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, &ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut leaf = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    leaf.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let certificate = leaf.signed_by(&key, &issuer).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    (Step::Tls(Arc::new(server).into()), roots)
}

fn trusting(config: &config::Upstream, roots: rustls::RootCertStore) -> Upstreams {
    let own = Own { port: 1, addresses: Vec::new() };
    let clock = Clock::manual(Timestamp(0));
    let tls = Tls::trusting(roots).unwrap();
    let connector = Connector::new(config.clone(), own, Resolver::new(clock.clone()), tls);
    Upstreams::connecting(connector, config, clock)
}

#[tokio::test]
async fn tls_is_verified_and_its_connections_are_kept() {
    let (tls, roots) = identity("127.0.0.1", (2000, 2100));
    let origin = Origin::start(vec![vec![tls, Say(OK), Say(OK)]]).await;
    let client = trusting(&config(None), roots);
    let url = Url::parse(&format!("https://{}/", origin.address)).unwrap();
    for _ in 0..2 {
        assert_eq!(read(client.send(get(url.clone())).await.unwrap()).await.unwrap(), "ok");
    }
    assert_eq!(origin.accepted(), 1);
}

#[tokio::test]
async fn a_port_that_speaks_no_tls_is_told_from_a_bad_certificate() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("https://{}/", listener.local_addr().unwrap())).unwrap();
    tasks::spawn("plain", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let client = trusting(&config(None), rustls::RootCertStore::empty());
    let fault = client.send(get(url)).await.err().unwrap();
    assert!(fault.label() == "tls" && fault.to_string().contains("no TLS is spoken"), "{fault}");
}

#[tokio::test]
async fn tls_with_anything_wrong_fails_closed() {
    let (_, foreign_roots) = identity("127.0.0.1", (2000, 2100));
    for (name, years, roots, advice) in [
        ("127.0.0.1", (2000, 2001), None, "renew the certificate"),
        ("127.0.0.1", (2090, 2100), None, "clock"),
        ("other.example.org", (2000, 2100), None, "by a name that its certificate is for"),
        ("127.0.0.1", (2000, 2100), Some(foreign_roots), "SSL_CERT_FILE"),
    ] {
        let (tls, own_roots) = identity(name, years);
        let origin = Origin::start(vec![vec![tls, Say(OK)]]).await;
        let client = trusting(&config(None), roots.unwrap_or(own_roots));
        let url = Url::parse(&format!("https://{}/", origin.address)).unwrap();
        let fault = client.send(get(url.clone())).await.err().unwrap();
        assert_eq!(fault.label(), "tls", "{name} {years:?}: {fault}");
        assert!(fault.to_string().contains(advice), "{fault}");
        assert!(origin.requests().is_empty() && client.down(&url).is_some());
    }
}

#[tokio::test]
async fn https_through_the_parent_is_a_tunnel_with_tls_to_the_server() {
    let (tls, roots) = identity("secure.example.org", (2000, 2100));
    let parent = Origin::start(vec![vec![Say("HTTP/1.1 200 OK\r\n\r\n"), tls, Say(OK)]]).await;
    let client = trusting(&config(parent.as_parent(Some("u:p"))), roots);
    let answer = client.send(get(Url::parse("https://secure.example.org/a").unwrap())).await.unwrap();
    assert_eq!(read(answer).await.unwrap(), "ok");
    let requests = parent.requests();
    assert!(requests[0].starts_with("CONNECT secure.example.org:443 HTTP/1.1\r\n") && requests[0].contains("dTpw"));
    assert_eq!(requests[1], "GET /a HTTP/1.1\r\nHost: secure.example.org\r\n\r\n");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_down_until_a_probe_gets_an_answer() {
    let origin = Origin::start(vec![vec![Hang], vec![Hang], vec![Say("HTTP/1.1 404 Not Found\r\n\r\n")]]).await;
    let own = Own { port: 1, addresses: Vec::new() };
    let clock = Clock::manual(Timestamp(0));
    let client = Upstreams::new(&config(None), own, clock.clone());
    let mut request = get(origin.url("/dir/file"));
    request.fields.insert(USER_AGENT, "test".parse().unwrap());
    request.fields.insert(AUTHORIZATION, "Basic dTpw".parse().unwrap());
    assert_eq!(client.send(request).await.err().unwrap().label(), "no-answer");
    assert_eq!(client.down(&origin.url("/other")).unwrap().label(), "no-answer");
    assert_eq!(client.health().len(), 1);
    let prober = tasks::spawn("prober", client.clone().probe());
    while client.down(&origin.url("/")).is_some() {
        // Virtual time: as much as the prober needs, none of it waited for.
        clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    prober.abort();
    let requests = origin.requests();
    let expected = |method| format!("{method} /dir/file HTTP/1.1\r\nHost: {}\r\nUser-Agent: test\r\n", origin.address);
    assert_eq!(requests[1], expected("HEAD") + "\r\n");
    assert_eq!(requests[2], expected("GET") + "Range: bytes=0-0\r\n\r\n");
}

#[tokio::test]
async fn success_ends_down_and_retry_after_is_honoured_for_a_while() {
    let busy = "HTTP/1.1 503 Busy\r\nRetry-After: 9999\r\nContent-Length: 0\r\n\r\n";
    let plain = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
    let origin = Origin::start(vec![vec![Say(plain), Say(busy), Say(OK)]]).await;
    let clock = Clock::manual(Timestamp(0));
    let client = Upstreams::new(&config(None), Own { port: 1, addresses: Vec::new() }, clock.clone());
    client.send(get(origin.url("/"))).await.unwrap();
    assert!(client.down(&origin.url("/")).is_none());
    client.send(get(origin.url("/"))).await.unwrap();
    assert_eq!(client.down(&origin.url("/")).unwrap().label(), "status");
    client.send(get(origin.url("/"))).await.unwrap();
    assert!(client.down(&origin.url("/")).is_none());
}

#[tokio::test]
async fn a_refused_connection_is_a_refusal() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = Url::parse(&format!("http://{unused}/")).unwrap();
    let client = client();
    assert_eq!(client.send(get(url.clone())).await.err().unwrap().label(), "refused");
    assert_eq!(client.down(&url).unwrap().label(), "refused");
}

#[tokio::test(start_paused = true)]
async fn the_rate_limit_holds_back_the_reader_and_is_no_stall() {
    let body = "x".repeat(100_000);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{body}").leak();
    let origin = Origin::start(vec![vec![Say(answer)]]).await;
    let client = client_of(&config::Upstream { rate_limit: Some(1000), ..config(None) });
    let start = tokio::time::Instant::now();
    assert_eq!(read(client.send(get(origin.url("/"))).await.unwrap()).await.unwrap(), body);
    let seconds = start.elapsed().as_secs();
    assert!((80..=101).contains(&seconds), "{seconds} virtual seconds");
}

#[tokio::test]
async fn an_answer_passes_through_as_a_body() {
    let origin = Origin::start(vec![vec![Say(OK)]]).await;
    let answer = client().send(get(origin.url("/"))).await.unwrap();
    assert_eq!(answer.body.size_hint().exact(), Some(2));
    assert_eq!(answer.body.collect().await.unwrap().to_bytes(), "ok");
}
