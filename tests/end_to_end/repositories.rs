//! What repositories say of their packages: one package by any mirror is one object, wrong bytes are never kept, and names that the
//! metadata has are had from whichever mirror has them.

use std::path::Path;
use std::process::Command;

use imirror_tests::http::{Answer, Connection};
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page};
use imirror_tests::{content, sha256};
use tempfile::TempDir;

use super::clients::{apt_get, deb_repository, dnf_has, dnf_install, rpm_repository, run};
use super::site::site_with;

const LIST: &str = "/d/dists/stable/main/binary-amd64/Packages";
const RELEASE: &str = "/d/dists/stable/InRelease";

pub(crate) fn pool(name: &str) -> String {
    format!("/d/pool/{name}_1_amd64.deb")
}

/// A day of November 2025.
fn date(day: u8) -> String {
    let name = ["Sat", "Sun", "Mon", "Tue", "Wed", "Thu", "Fri"][usize::from(day - 1) % 7];
    format!("{name}, {day:02} Nov 2025 10:11:12")
}

/// Puts a repository of these packages on an origin.
pub(crate) fn publish(origin: &Origin, day: u8, packages: &[(&str, &[u8])]) {
    let paragraph = |(name, body): &(&str, &[u8])| {
        let (path, size, sha) = (&pool(name)[3..], body.len(), sha256(body));
        format!("Package: {name}\nVersion: 1\nArchitecture: amd64\nFilename: {path}\nSize: {size}\nSHA256: {sha}\n\n")
    };
    let list: String = packages.iter().map(paragraph).collect();
    let release = format!(
        "Suite: stable\nDate: {} UTC\nSHA256:\n {} {} main/binary-amd64/Packages\n",
        date(day),
        sha256(list.as_bytes()),
        list.len()
    );
    let page = |body: Vec<u8>| Page::new(body).modified(&format!("{} GMT", date(day)));
    origin.put(LIST, page(list.into_bytes()));
    origin.put(RELEASE, page(release.into_bytes()));
    for (name, body) in packages {
        origin.put(&pool(name), page(body.to_vec()));
    }
}

/// As `apt-get update` would.
pub(crate) fn update(node: &Node, origin: &Origin) {
    for path in [RELEASE, LIST] {
        let answer = node.get_with(&origin.url(path), &["Cache-Control: max-age=0"]);
        assert_eq!(answer.status, 200, "{path}");
    }
}

fn get(node: &Node, origin: &Origin, name: &str) -> Answer {
    node.get(&origin.url(&pool(name)))
}

#[test]
fn r16_one_package_by_two_mirrors_is_fetched_once() {
    let (one, two) = (Origin::start(), Origin::start());
    let (body, other) = (content(1, 300_000), content(2, 1000));
    for origin in [&one, &two] {
        publish(origin, 1, &[("hello", &body), ("other", &other)]);
    }
    let mut node = Node::start(&[one.address(), two.address()], "");
    update(&node, &one);
    assert!(get(&node, &one, "hello").body == body);
    update(&node, &two);
    let by_two = get(&node, &two, "hello");
    assert!(by_two.body == body);
    assert!(
        by_two.field("cache-status").is_some_and(|status| status.ends_with("; hit")),
        "{:?}",
        by_two.field("cache-status")
    );
    assert_eq!((one.sent(".deb"), two.sent(".deb")), (body.len(), 0));
    // What the metadata names needs no word of upstream's.
    assert_eq!(one.seen(&pool("hello")).len(), 1);
    assert!(get(&node, &one, "hello").body == body);
    assert_eq!(one.seen(&pool("hello")).len(), 1);

    // Nothing of that has to be learnt again after a start.
    node.stop();
    node.run();
    assert!(get(&node, &two, "other").body == other);
    assert!(get(&node, &one, "other").body == other && get(&node, &one, "hello").body == body);
    assert_eq!((one.sent("other_1_amd64.deb"), two.sent("other_1_amd64.deb")), (0, other.len()));
    let repos = node.status()["repos"].clone();
    let packages = |i: usize| repos[i]["roots"][0]["packages"].clone();
    assert_eq!((packages(0), packages(1)), (2.into(), 2.into()), "{repos}");
}

#[test]
fn r16_what_was_fetched_before_its_metadata_is_found_too() {
    let (one, two) = (Origin::start(), Origin::start());
    let body = content(1, 100_000);
    for origin in [&one, &two] {
        publish(origin, 1, &[("hello", &body)]);
    }
    let node = Node::start(&[one.address(), two.address()], "");
    assert!(get(&node, &one, "hello").body == body);
    update(&node, &one);
    assert!(get(&node, &one, "hello").body == body, "it has been compared");
    assert_eq!(one.seen(&pool("hello")).len(), 1, "without asking upstream");
    update(&node, &two);
    assert!(get(&node, &two, "hello").body == body);
    assert_eq!(two.sent(".deb"), 0);
}

#[test]
fn r16_two_contents_under_one_name_are_two_objects() {
    let (one, two) = (Origin::start(), Origin::start());
    let (here, there) = (content(1, 50_000), content(2, 50_000));
    publish(&one, 1, &[("hello", &here)]);
    publish(&two, 2, &[("hello", &there)]);
    let node = Node::start(&[one.address(), two.address()], "");
    for (origin, body) in [(&one, &here), (&two, &there)] {
        update(&node, origin);
        assert!(get(&node, origin, "hello").body == *body);
    }
    assert!(get(&node, &one, "hello").body == here && get(&node, &two, "hello").body == there);
}

#[test]
fn r17_a_stored_package_that_is_not_what_the_metadata_names_is_fetched_anew() {
    let origin = Origin::start();
    let (wrong, right) = (content(1, 50_000), content(2, 50_000));
    publish(&origin, 1, &[("hello", &right)]);
    origin.put(&pool("hello"), Page::new(wrong.clone()));
    let node = Node::start(&[origin.address()], "");
    assert!(get(&node, &origin, "hello").body == wrong, "nothing is known of it yet");
    update(&node, &origin);
    origin.put(&pool("hello"), Page::new(right.clone()));
    assert!(get(&node, &origin, "hello").body == right);
    // The new version of a repository, under the same name.
    let newest = content(3, 60_000);
    publish(&origin, 2, &[("hello", &newest)]);
    update(&node, &origin);
    assert!(get(&node, &origin, "hello").body == newest);
}

#[test]
fn r8f_a_corrupt_mirror_is_found_out_and_avoided() {
    let (bad, good) = (Origin::start(), Origin::start());
    let (small, large, next) = (content(1, 40_000), content(2, 3_000_000), content(3, 2_000_000));
    for origin in [&bad, &good] {
        publish(origin, 1, &[("small", &small), ("large", &large), ("next", &next)]);
    }
    let more = format!("[repos.lab]\nupstreams = [\"{}\", \"{}\"]\n", bad.url("/d"), good.url("/d"));
    let node = Node::start(&[bad.address(), good.address()], &more);
    update(&node, &bad);
    let mut bent = small.clone();
    bent[20_000] ^= 1;
    bad.put(&pool("small"), Page::new(bent));
    let mut bent = large.clone();
    bent[1_000_000] ^= 1;
    bad.put(&pool("large"), Page::new(bent));

    // Of the large one much has gone out before the last byte can be compared: the client sees that it breaks off, and asks again.
    let first = get(&node, &bad, "large");
    assert!(first.body.len() < large.len(), "{} bytes", first.body.len());
    assert!(get(&node, &bad, "large").body == large);
    assert!(node.log().contains("a server sends wrong bytes"), "{}", node.log());
    // From now on the other one is asked first.
    assert!(get(&node, &bad, "next").body == next);
    assert_eq!((bad.sent("next_1_amd64.deb"), good.sent("next_1_amd64.deb")), (0, next.len()));
}

#[test]
fn r8f_of_a_small_package_no_client_sees_the_wrong_bytes() {
    let (bad, good) = (Origin::start(), Origin::start());
    let small = content(1, 40_000);
    for origin in [&bad, &good] {
        publish(origin, 1, &[("small", &small)]);
    }
    let node = Node::start(&[bad.address(), good.address()], "");
    update(&node, &bad);
    // It is not configured as a mirror of the first, but has the same list.
    update(&node, &good);
    let mut bent = small.clone();
    bent[20_000] ^= 1;
    bad.put(&pool("small"), Page::new(bent));
    let answer = get(&node, &bad, "small");
    assert_eq!((answer.status, answer.body == small), (200, true));
    let health = node.ask("GET", "/-/api/health", &node.address(), &[]);
    assert!(String::from_utf8_lossy(&health.body).contains(bad.address()), "it is reported");
}

#[test]
fn names_that_the_metadata_has_are_had_from_the_mirror_that_has_them() {
    let (lagging, other) = (Origin::start(), Origin::start());
    let body = content(1, 100_000);
    for origin in [&lagging, &other] {
        publish(origin, 1, &[("hello", &body)]);
    }
    lagging.remove(&pool("hello"));
    let node = Node::start(&[lagging.address(), other.address()], "");
    update(&node, &lagging);
    assert_eq!(get(&node, &lagging, "hello").status, 404, "nobody else is known to have it");
    update(&node, &other);
    let answer = get(&node, &lagging, "hello");
    assert_eq!((answer.status, answer.body == body), (200, true));
    // One that has another version of another length is passed over before a byte of it goes out.
    let (one, two) = (content(2, 70_000), content(3, 70_001));
    publish(&lagging, 2, &[("hello", &one)]);
    publish(&other, 2, &[("hello", &one)]);
    lagging.put(&pool("hello"), Page::new(two));
    update(&node, &lagging);
    update(&node, &other);
    assert!(get(&node, &lagging, "hello").body == one);
}

#[test]
fn malformed_metadata_is_passed_on_as_it_came() {
    let origin = Origin::start();
    let body = content(1, 50_000);
    publish(&origin, 1, &[("hello", &body)]);
    let (release, list) = (b"<html>no release</html>".to_vec(), b"no: list\nat all".to_vec());
    origin.put(RELEASE, Page::new(release.clone()));
    origin.put(LIST, Page::new(list.clone()));
    let node = Node::start(&[origin.address()], "");
    assert!(node.get(&origin.url(RELEASE)).body == release && node.get(&origin.url(LIST)).body == list);
    assert!(get(&node, &origin, "hello").body == body);
    node.wait_for(|| node.status()["errors"][0]["what"] == origin.url(RELEASE));
    assert!(node.log().contains("metadata cannot be read"));
    // Nor are bytes that are no text at all.
    origin.put(RELEASE, Page::new(content(1, 100_000)));
    assert_eq!(node.get_with(&origin.url(RELEASE), &["Cache-Control: max-age=0"]).body, content(1, 100_000));
}

/// Two mirrors of one tree, and a client of each.
fn by_two_mirrors(tree: &Path, package: &Path, suffix: &str, client: impl Fn(&Node, &Origin, &Path) -> Vec<u8>) {
    let (one, two) = (Origin::start(), Origin::start());
    one.put_tree(tree);
    two.put_tree(tree);
    let node = Node::start(&[one.address(), two.address()], "");
    let wanted = std::fs::read(package).unwrap();
    for origin in [&one, &two] {
        let folder = tempfile::tempdir().unwrap();
        assert!(client(&node, origin, folder.path()) == wanted);
    }
    assert_eq!((one.sent(suffix), two.sent(suffix)), (wanted.len(), 0), "two clients, one download");
}

#[test]
fn apt_by_two_mirrors() {
    let tree = TempDir::new().unwrap();
    let package = deb_repository(tree.path());
    by_two_mirrors(&tree.path().join("repo"), &package, ".deb", |node, origin, folder| {
        apt_get(&format!("http://{}", origin.address()), &format!("http://{}", node.address()), folder)
    });
}

#[test]
fn dnf_by_two_mirrors() {
    let tree = TempDir::new().unwrap();
    let package = rpm_repository(tree.path());
    by_two_mirrors(&tree.path().join("repo"), &package, ".rpm", |node, origin, folder| {
        let lines = format!("baseurl=http://{}\nproxy=http://{}\n", origin.address(), node.address());
        run(&mut dnf_install(&lines, folder));
        dnf_has(folder)
    });
}

/// A client that asks for all on one connection, as apt does.
struct Client(Connection);

impl Client {
    fn of(node: &Node) -> Self {
        Self(Connection::open(&node.address()))
    }

    fn get(&mut self, origin: &Origin, path: &str) -> Answer {
        self.0.send(&format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nCache-Control: max-age=0\r\n\r\n",
            origin.url(path),
            origin.address()
        ));
        self.0.answer(false).expect("an answer")
    }

    /// The digest of the list that the root names, and the day on which the root was made.
    fn root(&mut self, origin: &Origin) -> (String, u8) {
        let answer = self.get(origin, RELEASE);
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body).unwrap();
        let list = text.lines().find(|line| line.ends_with("Packages")).unwrap();
        let day = text.split(", ").nth(1).unwrap()[..2].parse().unwrap();
        (list.split_whitespace().next().unwrap().to_owned(), day)
    }

    /// The digest of a package that the list names.
    fn list(&mut self, origin: &Origin, digest: &str) -> String {
        let list = self.get(origin, LIST).body;
        assert_eq!(sha256(&list), digest, "the list is of another generation than the root");
        let list = String::from_utf8(list).unwrap();
        list.lines().find_map(|line| line.strip_prefix("SHA256: ")).unwrap().to_owned()
    }
}

#[test]
fn r18_who_has_a_root_gets_the_list_that_it_names() {
    let origin = Origin::start();
    let (first, second) = (content(1, 50_000), content(2, 50_000));
    publish(&origin, 1, &[("hello", &first)]);
    let node = Node::start(&[origin.address()], "");
    let (mut slow, mut quick) = (Client::of(&node), Client::of(&node));
    let (digest, _) = quick.root(&origin);
    quick.list(&origin, &digest);
    let (digest, day) = slow.root(&origin);
    assert_eq!(day, 1);

    publish(&origin, 2, &[("hello", &second)]);
    let (newer, day) = quick.root(&origin);
    assert_eq!(day, 2);
    assert_eq!(quick.list(&origin, &newer), sha256(&second));
    assert!(quick.get(&origin, &pool("hello")).body == second);
    assert_eq!(slow.list(&origin, &digest), sha256(&first), "it is still there for who has begun with it");
    let (newest, _) = slow.root(&origin);
    assert_eq!(newest, newer);
    assert_eq!(slow.list(&origin, &newest), sha256(&second));
}

#[test]
fn r18_what_one_client_got_is_no_short_cut_for_another() {
    let origin = Origin::start();
    let (first, second) = (content(1, 50_000), content(2, 50_000));
    publish(&origin, 1, &[("hello", &first)]);
    let node = Node::start(&[origin.address()], "");
    let (mut slow, mut quick) = (Client::of(&node), Client::of(&node));
    for client in [&mut slow, &mut quick] {
        let (digest, _) = client.root(&origin);
        client.list(&origin, &digest);
    }
    let plain = |client: &mut Client| {
        client.0.send(&format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.url(&pool("hello")), origin.address()));
        client.0.answer(false).expect("an answer").body
    };
    assert!(plain(&mut slow) == first);
    publish(&origin, 2, &[("hello", &second)]);
    let (digest, _) = quick.root(&origin);
    quick.list(&origin, &digest);
    // Each asks so often that an answer would be remembered.
    for _ in 0..3 {
        assert!(plain(&mut slow) == first && plain(&mut quick) == second);
    }
    for _ in 0..3 {
        assert!(plain(&mut quick) == second && plain(&mut slow) == first);
    }
}

#[test]
fn r18_a_generation_that_is_not_whole_is_not_handed_out() {
    let origin = Origin::start();
    let (first, second) = (content(1, 50_000), content(2, 50_000));
    publish(&origin, 1, &[("hello", &first)]);
    let node = Node::start(&[origin.address()], "");
    let mut client = Client::of(&node);
    let (old, _) = client.root(&origin);
    client.list(&origin, &old);

    // The root is new, its list has not come yet.
    let list = node.get(&origin.url(LIST)).body;
    publish(&origin, 2, &[("hello", &second)]);
    origin.put(LIST, Page::new(list));
    for _ in 0..2 {
        assert_eq!(client.root(&origin), (old.clone(), 1));
        client.list(&origin, &old);
    }
    publish(&origin, 2, &[("hello", &second)]);
    let (new, day) = client.root(&origin);
    assert_eq!(day, 2);
    assert_eq!(client.list(&origin, &new), sha256(&second));
    assert!(client.get(&origin, &pool("hello")).body == second);
}

#[test]
fn r18_a_root_is_not_handed_out_before_it_is_known_what_it_names() {
    let (origin, other) = (Origin::start(), Origin::start());
    let (first, second) = (content(1, 50_000), content(2, 50_000));
    for origin in [&origin, &other] {
        publish(origin, 1, &[("hello", &first)]);
    }
    let node = Node::start(&[origin.address(), other.address()], "");
    let mut client = Client::of(&node);
    let (old, _) = client.root(&origin);
    client.list(&origin, &old);
    // The disk stalls while it is written down what is known: whoever opens a pipe to write waits for a reader.
    let pipe = node.dir().join("cache/catalogue/roots.new");
    run(Command::new("mkfifo").arg(&pipe));
    node.get(&other.url(RELEASE));
    node.wait_for(|| node.status()["repos"].as_array().is_some_and(|known| known.len() == 2));
    publish(&origin, 2, &[("hello", &second)]);
    for _ in 0..2 {
        let (digest, day) = client.root(&origin);
        assert_eq!(client.list(&origin, &digest), sha256(if day == 1 { &first } else { &second }));
    }
    std::fs::read(&pipe).unwrap();
    node.wait_for(|| client_of_second(&node, &origin, &second));
}

/// Does a client that comes now get the second generation, and all of it?
fn client_of_second(node: &Node, origin: &Origin, hello: &[u8]) -> bool {
    let mut client = Client::of(node);
    let (digest, day) = client.root(origin);
    day == 2 && client.list(origin, &digest) == sha256(hello)
}

#[test]
fn r18_what_a_client_hears_to_be_current_is_what_it_has() {
    let origin = Origin::start();
    let (first, second) = (content(1, 50_000), content(2, 50_000));
    publish(&origin, 1, &[("hello", &first)]);
    let node = Node::start(&[origin.address()], "");
    let mut slow = Client::of(&node);
    let (old, _) = slow.root(&origin);
    slow.list(&origin, &old);
    let mut ask = |method: &str, field: &str| {
        let request = format!("{method} {} HTTP/1.1\r\nHost: {}\r\n", origin.url(RELEASE), origin.address());
        slow.0.send(&format!("{request}{field}\r\n\r\n"));
        slow.0.answer(true).expect("an answer").status
    };
    // It asks again, and is told that there is nothing new; when there is, it only looks.
    assert_eq!(ask("GET", &format!("If-Modified-Since: {} GMT", date(1))), 304);
    publish(&origin, 2, &[("hello", &second)]);
    assert!(client_of_second(&node, &origin, &second));
    assert_eq!(ask("HEAD", "Accept: */*"), 200);
    assert_eq!(slow.list(&origin, &old), sha256(&first), "it still has the first");
}

#[test]
fn r18_a_root_that_a_peer_has_comes_with_what_it_names() {
    let origin = Origin::start();
    let (first, second) = (content(1, 50_000), content(2, 50_000));
    publish(&origin, 1, &[("hello", &first)]);
    let mut site = site_with(2, &origin, "[freshness]\nmetadata = \"2s\"\n");
    site.iter().for_each(|node| update(node, &origin));
    publish(&origin, 2, &[("hello", &second)]);
    update(&site[0], &origin);
    let [root, list] = [RELEASE, LIST].map(|path| site[0].get(&origin.url(path)).body);
    // Upstream goes on to the next, under the same name.
    origin.put(LIST, Page::new(vec![b'x'; list.len()]));
    // The one node asks upstream again and again; the other hears from it what upstream has, as soon as it wants to know.
    site[1].wait_for(|| {
        site[0].get_with(&origin.url(RELEASE), &["Cache-Control: no-cache"]);
        site[1].get(&origin.url(RELEASE)).body == root
    });
    site[0].kill();
    assert!(site[1].get_with(&origin.url(LIST), &["Cache-Control: max-age=0"]).body == list);
}

#[test]
fn r18_a_lagging_mirror_does_not_take_a_repository_back() {
    let (current, lagging) = (Origin::start(), Origin::start());
    let (first, second) = (content(1, 50_000), content(2, 50_000));
    publish(&current, 2, &[("hello", &second)]);
    publish(&lagging, 1, &[("hello", &first)]);
    let more = format!("[repos.lab]\nupstreams = [\"{}\", \"{}\"]\n", current.url("/d"), lagging.url("/d"));
    let node = Node::start(&[current.address(), lagging.address()], &more);
    let mut client = Client::of(&node);
    let (digest, day) = client.root(&current);
    assert_eq!(day, 2);
    client.list(&current, &digest);
    current.set_down(true);
    for _ in 0..3 {
        assert_eq!(client.root(&current), (digest.clone(), 2));
        assert_eq!(client.list(&current, &digest), sha256(&second));
    }
}

/// Clients of two nodes, each of which uses two mirrors, while the repository is published anew all the time: root first, then the
/// package and at last the list, on one mirror after the other.
#[test]
fn r18_no_client_ever_sees_two_generations_mixed() {
    const DAYS: u8 = 28;
    let origins = [Origin::start(), Origin::start()];
    let body = |day: u8| content(u64::from(day), 20_000);
    for origin in &origins {
        publish(origin, 1, &[("hello", &body(1))]);
    }
    let bases: Vec<_> = origins.iter().map(|origin| format!("\"{}\"", origin.url("/d"))).collect();
    let more = format!("[repos.lab]\nupstreams = [{}]\n", bases.join(", "));
    let allow = [origins[0].address(), origins[1].address()];
    let nodes = [Node::start(&allow, &more), Node::start(&allow, &more)];
    // Who comes for the first time when no mirror is whole cannot be helped.
    for node in &nodes {
        let mut client = Client::of(node);
        let (digest, _) = client.root(&origins[0]);
        client.list(&origins[0], &digest);
    }
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (i, node) in nodes.iter().cycle().take(4).enumerate() {
            let (origin, is_over) = (&origins[i % 2], &is_over);
            scope.spawn(move || {
                let (mut client, mut latest) = (Client::of(node), 0);
                loop {
                    let is_last = is_over.load(std::sync::atomic::Ordering::SeqCst);
                    let (digest, day) = client.root(origin);
                    assert!(day >= latest, "it went back from {latest} to {day}");
                    latest = day;
                    assert_eq!(client.list(origin, &digest), sha256(&body(day)));
                    if is_last {
                        assert_eq!(latest, DAYS);
                        return;
                    }
                }
            });
        }
        for day in 2..=DAYS {
            for origin in &origins {
                let list = origin.page(LIST);
                publish(origin, day, &[("hello", &body(day))]);
                let new = origin.page(LIST);
                origin.put(LIST, list);
                // Until some client has come by and seen the new root without its list.
                let asked = || origins.iter().map(|origin| origin.seen(RELEASE).len()).sum::<usize>();
                let before = asked();
                nodes[0].wait_for(|| asked() > before);
                origin.put(LIST, new);
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}
