//! apk, which no other distribution packages: what apk-tools' libfetch sends and how it reads the answers, byte for byte
//! (libfetch/http.c and src/io_url_libfetch.c of apk-tools), against a generated repository.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use imirror_tests::content;
use imirror_tests::http::{Answer, Connection};
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page};

pub(super) const INDEX: &str = "/v3.20/main/x86_64/APKINDEX.tar.gz";

/// What apk knows of a file it has.
#[derive(Clone, Copy)]
enum Have<'a> {
    Nothing,
    /// `apk update`: whatever it has, it wants to know.
    Refresh,
    /// Since when it has it.
    Since(&'a str),
}

/// One run of apk. It keeps a connection only if the answer says so in these very words.
struct Apk<'a> {
    node: &'a Node,
    origin: &'a Origin,
    as_proxy: bool,
    connection: Option<Connection>,
}

impl<'a> Apk<'a> {
    fn new(node: &'a Node, origin: &'a Origin, as_proxy: bool) -> Self {
        Self { node, origin, as_proxy, connection: None }
    }

    fn get(&mut self, path: &str, have: Have<'_>) -> Answer {
        let (target, host) = match self.as_proxy {
            true => (self.origin.url(path), self.origin.address().to_owned()),
            false => (format!("/{}{path}", self.origin.address()), self.node.address()),
        };
        let condition = match have {
            Have::Nothing => String::new(),
            Have::Refresh => "Cache-Control: no-cache\r\n".into(),
            Have::Since(date) => format!("If-Modified-Since: {date}\r\n"),
        };
        let mut connection = self.connection.take().unwrap_or_else(|| Connection::open(&self.node.address()));
        connection
            .send(&format!("GET {target} HTTP/1.1\r\n{condition}Host: {host}\r\nUser-Agent: libfetch/2.0\r\n\r\n"));
        let answer = connection.answer(false).expect("an answer");
        assert!(answer.complete, "{path}");
        // Without a length it takes whatever comes for the whole.
        let length = answer.field("content-length").map(|length| length.parse().unwrap());
        assert!(answer.status == 304 || length == Some(answer.body.len()), "{:?}", answer.fields);
        let is_kept = answer.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive"));
        assert!(is_kept, "each file would take a connection of its own: {:?}", answer.fields);
        self.connection = Some(connection);
        answer
    }

    /// `apk update && apk fetch hello`: the package of the version that the index names, as long as it says.
    fn update_and_fetch(&mut self) -> (String, Vec<u8>) {
        let index = self.get(INDEX, Have::Refresh);
        assert_eq!(index.status, 200);
        let (version, size) = read_index(&index.body);
        let package = self.get(&package_path(&version), Have::Nothing);
        assert_eq!((package.status, package.body.len()), (200, size));
        (version, package.body)
    }
}

pub(super) fn package_path(version: &str) -> String {
    format!("/v3.20/main/x86_64/hello-{version}.apk")
}

/// Makes a folder into a `.tar.gz`.
fn archive(folder: &Path) -> Vec<u8> {
    let output =
        Command::new("bsdtar").args(["-cz", "--format", "ustar", "-f", "-", "-C"]).arg(folder).arg(".").output();
    let output = output.expect("bsdtar is installed");
    assert!(output.status.success());
    output.stdout
}

/// A repository with one package: control and data segments one after the other, and an index that names it.
pub(super) fn publish(origin: &Origin, version: &str, seed: u64, date: &str) -> Vec<u8> {
    let folder = |files: &[(&str, Vec<u8>)]| {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, bytes)| std::fs::write(folder.path().join(name), bytes).unwrap());
        archive(folder.path())
    };
    let info = format!("pkgname = hello\npkgver = {version}\narch = x86_64\nsize = 1000000\n");
    let package = [folder(&[(".PKGINFO", info.into())]), folder(&[("data", content(seed, 1_000_000))])].concat();
    let entry = format!("P:hello\nV:{version}\nA:x86_64\nS:{}\nI:1000000\nT:test\n\n", package.len());
    let index = folder(&[("DESCRIPTION", b"main\n".to_vec()), ("APKINDEX", entry.into())]);
    origin.put(&package_path(version), Page::new(package.clone()));
    origin.put(INDEX, Page::new(index).modified(date));
    package
}

/// Version and size of the one package in an index.
pub(super) fn read_index(index: &[u8]) -> (String, usize) {
    let mut unpack = Command::new("bsdtar");
    unpack.args(["-xO", "-f", "-", "./APKINDEX"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut unpack = unpack.spawn().expect("bsdtar is installed");
    unpack.stdin.take().unwrap().write_all(index).unwrap();
    let text = String::from_utf8(unpack.wait_with_output().unwrap().stdout).unwrap();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).expect("a field").to_owned();
    (field("V:"), field("S:").parse().unwrap())
}

#[test]
fn four_clients_cost_one_package() {
    let origin = Origin::start();
    let package = publish(&origin, "1.0-r0", 1, "Mon, 02 Jan 2023 03:04:05 GMT");
    let node = Node::start(&[origin.address()], "");
    for as_proxy in [true, false, true, false] {
        let (version, got) = Apk::new(&node, &origin, as_proxy).update_and_fetch();
        assert!(version == "1.0-r0" && got == package, "as a proxy: {as_proxy}");
    }
    assert_eq!(origin.sent(".apk"), package.len());
    let asked = origin.seen(INDEX);
    assert!(asked.len() == 4 && asked[1..].iter().all(|seen| seen.sent == 0), "each update asks, one gets content");
}

#[test]
fn an_update_is_seen_at_once_and_costs_nothing_when_there_is_none() {
    let origin = Origin::start();
    let (first, second) = ("Mon, 02 Jan 2023 03:04:05 GMT", "Tue, 03 Jan 2023 03:04:05 GMT");
    publish(&origin, "1.0-r0", 1, first);
    let node = Node::start(&[origin.address()], "");
    for as_proxy in [true, false] {
        let mut apk = Apk::new(&node, &origin, as_proxy);
        let index = apk.get(INDEX, Have::Refresh);
        assert_eq!(index.field("last-modified"), Some(first), "it becomes the date of the file");
        assert_eq!(apk.get(INDEX, Have::Since(first)).status, 304);
    }
    let newer = publish(&origin, "1.1-r0", 2, second);
    let mut apk = Apk::new(&node, &origin, true);
    let index = apk.get(INDEX, Have::Since(first));
    assert_eq!((index.status, index.field("last-modified")), (200, Some(second)));
    assert_eq!(read_index(&index.body).0, "1.1-r0");
    assert!(apk.update_and_fetch() == ("1.1-r0".into(), newer));
}

#[test]
fn what_is_not_there_is_an_error_with_an_end() {
    let origin = Origin::start();
    publish(&origin, "1.0-r0", 1, "Mon, 02 Jan 2023 03:04:05 GMT");
    let node = Node::start(&[origin.address()], "");
    for as_proxy in [true, false] {
        let mut apk = Apk::new(&node, &origin, as_proxy);
        assert_eq!(apk.get(&package_path("9.9-r9"), Have::Nothing).status, 404);
        assert_eq!(apk.update_and_fetch().0, "1.0-r0", "and the next request is answered");
    }
}
