//! Signatures of what clients trust first: each generation has its own, and where a keyring is configured nothing is served that is not
//! signed by one of its keys.

use std::path::Path;

use imirror_tests::http::{Answer, Connection};
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page};
use imirror_tests::sha256;

use super::republished::Key;

const IN_RELEASE: &str = "/d/dists/stable/InRelease";
const RELEASE: &str = "/d/dists/stable/Release";
const REPOMD: &str = "/d/repodata/repomd.xml";

fn node(origin: &Origin, keyring: &Path) -> Node {
    let lab = format!("[repos.lab]\nupstreams = [\"{}\"]\nkeyring = \"{}\"\n", origin.url("/d"), keyring.display());
    Node::start(&[origin.address()], &lab)
}

fn release(day: u8) -> String {
    format!("Suite: stable\nDate: Sat, {day:02} Nov 2025 10:11:12 UTC\nSHA256:\n {} 5 main/x\n", sha256(&[day]))
}

fn put(origin: &Origin, path: &str, day: u8, body: impl Into<Vec<u8>>) {
    origin.put(path, Page::new(body.into()).modified(&format!("Sat, {day:02} Nov 2025 10:11:12 GMT")));
}

fn published(origin: &Origin, path: &str) -> Vec<u8> {
    origin.page(path).body.to_vec()
}

fn get(node: &Node, origin: &Origin, path: &str) -> Answer {
    node.get_with(&origin.url(path), &["Cache-Control: max-age=0"])
}

#[test]
fn a_root_within_its_signature() {
    let (key, stranger, origin) = (Key::new(), Key::new(), Origin::start());
    let signed = |day: u8, key: &Key| key.clear_sign(&release(day));
    put(&origin, IN_RELEASE, 1, signed(1, &stranger));
    let node = node(&origin, &key.public());
    let refused = get(&node, &origin, IN_RELEASE);
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(refused.status == 502 && text.contains("signature"), "{} {text}", refused.status);
    put(&origin, IN_RELEASE, 2, signed(2, &key));
    let good = get(&node, &origin, IN_RELEASE);
    assert_eq!((good.status, &good.body), (200, &published(&origin, IN_RELEASE)));

    let more = [b"Origin: somebody else\n".to_vec(), signed(3, &key)].concat();
    let mut bent = signed(3, &key);
    let at = bent.windows(4).position(|window| window == b"2025").unwrap();
    bent[at] = b'3';
    for bad in [signed(3, &stranger), more, bent, release(3).into_bytes()] {
        put(&origin, IN_RELEASE, 3, bad);
        let answer = get(&node, &origin, IN_RELEASE);
        assert_eq!((answer.status, &answer.body), (200, &good.body), "the last good one stays");
    }
    let errors = node.ask("GET", "/-/api/health", &node.address(), &[]).body;
    assert!(String::from_utf8(errors).unwrap().contains("signature"), "the mirror is reported");
    put(&origin, IN_RELEASE, 4, signed(4, &key));
    assert_eq!(get(&node, &origin, IN_RELEASE).body, published(&origin, IN_RELEASE));
    origin.set_down(true);
    assert_eq!(get(&node, &origin, IN_RELEASE).status, 200);
}

#[test]
fn a_root_with_its_signature_beside_it() {
    let (key, stranger, origin) = (Key::new(), Key::new(), Origin::start());
    let armoured = key.public_armoured();
    for (path, suffix) in [(RELEASE, ".gpg"), (REPOMD, ".asc")] {
        let body = |day: u8| match path {
            RELEASE => release(day),
            _ => format!("<repomd><revision>{day}</revision></repomd>"),
        };
        let beside = format!("{path}{suffix}");
        let put_both = |day: u8, key: &Key| {
            put(&origin, path, day, body(day));
            put(&origin, &beside, day, key.detached(&body(day)));
        };
        put_both(1, &key);
        let mut node = node(&origin, &armoured);
        let first = [path, &beside].map(|path| get(&node, &origin, path).body);
        assert_eq!(first, [path, &beside].map(|path| published(&origin, path)));
        put_both(2, &stranger);
        assert_eq!([path, &beside].map(|path| get(&node, &origin, path).body), first);
        put(&origin, path, 3, body(3));
        origin.remove(&beside);
        assert_eq!([path, &beside].map(|path| get(&node, &origin, path).body), first, "there is none");
        // What is stored is known to be good after a restart, too.
        node.stop();
        node.run();
        origin.set_down(true);
        assert_eq!([path, &beside].map(|path| get(&node, &origin, path).body), first);
        origin.set_down(false);
        put_both(4, &key);
        let new = [path, &beside].map(|path| get(&node, &origin, path).body);
        assert_eq!(new, [path, &beside].map(|path| published(&origin, path)));
    }
}

#[test]
fn a_client_gets_the_signature_of_the_root_that_it_has() {
    let (key, origin) = (Key::new(), Origin::start());
    let list = "<metadata packages=\"0\"></metadata>".to_owned();
    let root = |day: u8| {
        let (sha, len) = (sha256(list.as_bytes()), list.len());
        format!(
            "<repomd><revision>{day}</revision><data type=\"primary\"><checksum type=\"sha256\">{sha}</checksum><location href=\"repodata/primary.xml\"/><size>{len}</size></data></repomd>"
        )
    };
    let beside = format!("{REPOMD}.asc");
    let publish = |day: u8| {
        put(&origin, "/d/repodata/primary.xml", 1, list.clone());
        put(&origin, &beside, day, key.detached(&root(day)));
        put(&origin, REPOMD, day, root(day));
    };
    publish(1);
    let node = Node::start(&[origin.address()], "");
    let ask = |connection: &mut Connection, path: &str| {
        let host = origin.address();
        connection
            .send(&format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\nCache-Control: max-age=0\r\n\r\n"));
        connection.answer(false).unwrap().body
    };
    let mut clients = [Connection::open(&node.address()), Connection::open(&node.address())];
    assert_eq!(ask(&mut clients[0], REPOMD), root(1).into_bytes());
    let signature = ask(&mut clients[0], &beside);
    publish(2);
    assert_eq!(ask(&mut clients[1], REPOMD), root(2).into_bytes());
    assert_eq!(ask(&mut clients[1], &beside), published(&origin, &beside));
    assert_eq!(ask(&mut clients[0], &beside), signature, "this one has the first root");
}

#[test]
fn a_keyring_that_is_not_there_is_said() {
    let origin = Origin::start();
    put(&origin, IN_RELEASE, 1, "x");
    let node = node(&origin, Path::new("/nonexistent/keys.gpg"));
    let answer = get(&node, &origin, IN_RELEASE);
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status == 502 && text.contains("/nonexistent/keys.gpg"), "{text}");
    // Of Alpine's signatures, which are of another kind, nobody here can say whether they are good.
    put(&origin, "/d/v3/main/x86_64/APKINDEX.tar.gz", 1, "x");
    assert_eq!(get(&node, &origin, "/d/v3/main/x86_64/APKINDEX.tar.gz").status, 502);
    let check = node.command(&["doctor"]).output().unwrap();
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(text.contains("/nonexistent/keys.gpg"), "{text}");
}
