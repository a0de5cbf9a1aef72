//! One object from several nodes at once (R8e): hosts of a LAN whose cables are slow. What came over each cable, and the origin's count,
//! are the judges.

use imirror_tests::content;
use imirror_tests::http::Connection;
use imirror_tests::netns::Lan;
use imirror_tests::node::Node;
use imirror_tests::origin::{Origin, Page};

use crate::lan_site::{NAMES, RPM, TOKEN, alive, knows, origin, start};
use crate::liar::Liar;

const RATE: &str = "10mbit";
const SIZE: usize = 10_000_000;

/// Two hosts with slow cables hold something that a node on a third has not got.
struct Scene {
    site: Vec<Node>,
    origin: Origin,
    lan: Lan,
    url: String,
    body: Vec<u8>,
    /// What the holders had sent before it is asked for.
    before: [u64; 2],
    fetched: usize,
}

impl Scene {
    fn of_two_nodes() -> Self {
        let (lan, origin, url, body) = Self::begin();
        // Each fetches it for itself.
        lan.part(&[0], &[1]);
        let mut site: Vec<Node> = (0..2).map(|place| start(&lan, place, TOKEN, "")).collect();
        assert!(site.iter().all(|node| node.get(&url).body == body));
        lan.unite();
        site.push(start(&lan, 2, TOKEN, ""));
        site.iter().for_each(|node| node.wait_for(|| alive(node) == 3));
        site[2].wait_for(|| NAMES[..2].iter().all(|name| knows(&site[2], name, 1)));
        Self::slow(lan, origin, url, body, site)
    }

    fn begin() -> (Lan, Origin, String, Vec<u8>) {
        let lan = Lan::new(3);
        let origin = origin(&lan);
        let body = content(1, SIZE);
        origin.put(RPM, Page::new(body.clone()));
        let url = origin.url(RPM);
        (lan, origin, url, body)
    }

    fn slow(lan: Lan, origin: Origin, url: String, body: Vec<u8>, site: Vec<Node>) -> Self {
        [0, 1].iter().for_each(|place| lan.limit(*place, RATE));
        let fetched = origin.seen(RPM).len();
        let before = [0, 1].map(|place| lan.sent_by(place));
        Self { site, origin, lan, url, body, before, fetched }
    }

    /// A client of the third node that has got the first bytes, while both holders send.
    fn client(&self) -> Connection {
        let host = self.lan.host(2);
        let mut client = Connection::over(host.connect((host.address(), 3142).into()).unwrap());
        let authority = self.url.split('/').nth(2).unwrap();
        client.send(&format!("GET {} HTTP/1.1\r\nHost: {authority}\r\n\r\n", self.url));
        assert!(client.head().is_some() && client.read(100_000) == self.body[..100_000]);
        self.asker().wait_for(|| self.sent().iter().all(|sent| *sent > 1_000_000));
        client
    }

    fn asker(&self) -> &Node {
        self.site.last().unwrap()
    }

    fn sent(&self) -> [u64; 2] {
        [0, 1].map(|place| self.lan.sent_by(place) - self.before[place])
    }

    /// The client gets the rest of it, upstream is not asked, and hardly anything has come twice.
    fn goes_well(&self, mut client: Connection) {
        assert!(client.read(SIZE - 100_000) == self.body[100_000..]);
        assert_eq!(self.origin.seen(RPM).len(), self.fetched);
        let received = self.asker().status()["traffic"]["bytes_from_peers"].as_u64().unwrap();
        let size = SIZE as u64;
        assert!((size..=size * 105 / 100).contains(&received), "{received} bytes for {size}");
        // That much and the packets' heads; what was on its way from one that failed counts as well.
        let sent: u64 = self.sent().iter().sum();
        assert!(sent < size * 115 / 100, "{:?} for {size}", self.sent());
    }
}

#[test]
fn r8e_of_two_slow_holders_each_sends_its_half() {
    let scene = Scene::of_two_nodes();
    let client = scene.client();
    scene.goes_well(client);
    let sent = scene.sent();
    // At the same rate over both cables: in half the time that one of them would take. A twentieth is for the packets' heads.
    assert!(sent.iter().sum::<u64>() < SIZE as u64 * 110 / 100, "{sent:?}");
    assert!(sent.iter().all(|sent| *sent > SIZE as u64 * 2 / 5), "{sent:?}");
}

#[test]
fn r8e_one_that_freezes_is_stood_in_for() {
    let mut scene = Scene::of_two_nodes();
    let client = scene.client();
    scene.site[0].signal("-STOP");
    scene.goes_well(client);
    scene.site[0].kill();
}

#[test]
fn r8e_one_that_dies_is_stood_in_for() {
    let mut scene = Scene::of_two_nodes();
    let client = scene.client();
    scene.site[1].kill();
    scene.goes_well(client);
}

#[test]
fn r8e_one_that_lies_is_stood_in_for() {
    let (lan, origin, url, body) = Scene::begin();
    let holder = start(&lan, 0, TOKEN, "");
    assert!(holder.get(&url).body == body);
    let seed = format!("{}:3142", lan.host(0).address());
    let listen = (lan.host(1).address(), 3142).into();
    let _liar = lan.host(1).within(|| Liar::start(TOKEN, listen, &seed, &url, &body, 1_500_000));
    let asker = start(&lan, 2, TOKEN, "");
    asker.wait_for(|| knows(&asker, NAMES[0], 1) && knows(&asker, "liar", 1));
    let scene = Scene::slow(lan, origin, url, body, vec![holder, asker]);
    let client = scene.client();
    scene.goes_well(client);
    scene.asker().wait_for_words("a node misbehaves: it sent wrong bytes of an object");
}
