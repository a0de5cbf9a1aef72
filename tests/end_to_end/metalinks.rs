//! Repositories whose mirrors a metalink names.

use imirror_tests::content;
use imirror_tests::http::{Answer, request};
use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::{Origin, Page, Trouble};

const LIST: &str = "/metalink?repo=lab&arch=x86_64";

fn metalink(bases: &[String]) -> Page {
    let url = |base: &String| format!("<url protocol=\"http\" preference=\"90\">{base}/repodata/repomd.xml</url>\n");
    let urls: String = bases.iter().map(url).collect();
    let text = format!(
        "<?xml version=\"1.0\"?>\n<metalink version=\"3.0\"><files><file name=\"repomd.xml\"><resources>\n\
         <url protocol=\"rsync\" preference=\"100\">rsync://near.example.org/repodata/repomd.xml</url>\n{urls}\
         </resources></file></files></metalink>"
    );
    Page::new(text.into_bytes())
}

fn mirrors(node: &Node) -> Vec<String> {
    let list = node.status()["repos"][0]["upstreams"].clone();
    serde_json::from_value(list).unwrap()
}

fn get(node: &Node, path: &str) -> Answer {
    request(&node.address(), "GET", path, &node.address(), &[])
}

#[test]
fn a_metalinks_mirrors_stand_in_for_each_other_and_the_list_is_kept_fresh() {
    let (lists, second, third) = (Origin::start(), Origin::start(), Origin::start());
    let dead = free_port().to_string();
    let allow = [lists.address(), second.address(), third.address(), &dead];
    let more = format!("[repos.lab]\nmetalink = \"{}\"\n", lists.url(LIST));
    let (gone, two, three) = (format!("http://{dead}/one"), second.url("/two"), third.url("/three"));
    lists.put(LIST, metalink(&[gone.clone(), two.clone()]));
    let mut node = Node::start(&allow, &more);
    assert_eq!(mirrors(&node), [gone.as_str(), two.as_str()]);
    let screen = node.command(&["status"]).output().unwrap();
    let line = format!("2 mirrors that {} names", lists.url(LIST));
    assert!(String::from_utf8_lossy(&screen.stdout).contains(&line), "{screen:?}");

    // The first mirror is dead.
    let body = content(1, 300_000);
    second.put("/two/a.rpm", Page::new(body.clone()));
    let first = get(&node, "/lab/a.rpm");
    assert_eq!((first.status, first.body == body), (200, true), "{}", first.status);
    // Whichever way it is asked for, it is one object.
    assert!(node.get(&format!("{gone}/a.rpm")).body == body && node.get(&format!("{two}/a.rpm")).body == body);
    assert_eq!(second.sent("a.rpm"), body.len());

    // Another list is used without a start, and what is stored stays known by it.
    lists.put(LIST, metalink(std::slice::from_ref(&three)));
    node.signal("-HUP");
    node.wait_for(|| mirrors(&node) == [three.as_str()]);
    third.put("/three/a.rpm", Page::new(body.clone()));
    third.put("/three/b.rpm", Page::new(content(2, 1000)));
    assert!(get(&node, "/lab/a.rpm").body == body && get(&node, "/lab/b.rpm").body == content(2, 1000));
    assert_eq!(third.sent("a.rpm"), 0);

    node.wait_for_objects(2);
    let purged = node.command(&["purge", "--repo", &three]).output().unwrap();
    assert!(purged.status.success() && purged.stdout.starts_with(b"2 "), "{purged:?}");
    assert!(get(&node, "/lab/a.rpm").body == body);
    assert_eq!(third.sent("a.rpm"), body.len());

    // A list that is of no use, or not to be had, changes nothing.
    lists.put(LIST, Page::new(b"<html>Log in</html>".to_vec()));
    node.signal("-HUP");
    node.wait_for_words("it names no mirror");
    assert_eq!(mirrors(&node), [three.as_str()]);
    lists.put(LIST, metalink(&[two]).with(Trouble::Status(503)));
    node.stop();
    node.run();
    assert_eq!(mirrors(&node), [three.as_str()]);
    assert!(get(&node, "/lab/a.rpm").body == body);
    node.stop();
}

#[test]
fn a_repository_without_a_list_says_so() {
    let lists = Origin::start();
    lists.put(LIST, Page::new(vec![b' '; 32 << 20]));
    let node = Node::start(&[lists.address()], &format!("[repos.lab]\nmetalink = \"{}\"\n", lists.url(LIST)));
    let refused = get(&node, "/lab/a.rpm");
    let text = String::from_utf8(refused.body).unwrap();
    assert_eq!(refused.status, 502, "{text}");
    assert!(text.contains("[repos.lab]") && text.contains("more than 1048576 bytes"), "{text}");
    assert!(lists.sent(LIST) < 16 << 20, "it is read to its end");
}
