//! `imirror client-config --apply` and `--undo` with the real package managers while nodes come and go: what is there is used,
//! and without any node the client goes on by itself.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use imirror_tests::http::Connection;
use imirror_tests::namespace::Namespace;
use imirror_tests::node::{Node, free_port, program};
use imirror_tests::origin::Origin;
use imirror_tests::sha256;
use tempfile::TempDir;

use crate::apk;
use crate::clients::{PACMAN_PACKAGE, deb_repository, find, pacman_repository, rpm_repository, run};

/// At an address of its own: apt gives up an address, whatever the port.
fn node(last: u8, origin: &Origin) -> Node {
    Node::start_at(SocketAddr::from(([127, 0, 0, last], free_port().port())), &[origin.address()], "")
}

fn requests(node: &Node) -> u64 {
    node.status()["traffic"]["requests"].as_u64().unwrap()
}

fn to_clients(node: &Node) -> u64 {
    node.status()["traffic"]["bytes_to_clients"].as_u64().unwrap()
}

fn client_config(family: &str, root: &Path, flags: &[&str]) -> String {
    run(Command::new(program()).args(["client-config", family]).args(flags).arg("--root").arg(root))
}

/// A client whose configuration is changed.
struct Client<'a> {
    origin: &'a Origin,
    /// Ends the names of packages.
    suffix: &'static str,
    package: Vec<u8>,
    /// Says `--apply` or `--undo` and more.
    configure: &'a dyn Fn(&[&str]) -> String,
    /// Everything that is configured, in one text.
    configuration: &'a dyn Fn() -> String,
    /// As a client that has nothing yet; returns the package.
    fetch: &'a dyn Fn() -> Vec<u8>,
}

impl Client<'_> {
    /// Fetches; so many packages have to come from the origin for it.
    fn costs(&self, packages: usize, why: &str) {
        let all = self.origin.sent(self.suffix) + packages * self.package.len();
        assert_eq!(sha256(&(self.fetch)()), sha256(&self.package), "{why}");
        // The origin counts what it has sent, which may be after it has come.
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.origin.sent(self.suffix) < all && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(self.origin.sent(self.suffix), all, "{why}");
    }

    /// Two nodes that know nothing of each other come and go.
    fn while_nodes_come_and_go(&self) {
        let (mut first, mut second) = (node(2, self.origin), node(3, self.origin));
        let before = (self.configuration)();
        let nodes = ["--node", &first.address(), "--node", &second.address()];
        let apply = [&["--apply"][..], &nodes].concat();
        let shown = (self.configure)(&[&apply[..], &["--dry-run"]].concat());
        assert!(shown.contains(&first.address()) && shown.contains("\n+++ "), "{shown}");
        assert_eq!((self.configuration)(), before, "--dry-run changes nothing");
        (self.configure)(&apply);
        let applied = (self.configuration)();
        (self.configure)(&apply);
        assert_eq!((self.configuration)(), applied, "a second --apply changes nothing");

        self.costs(1, "it has to come from somewhere");
        let asked = requests(&first);
        assert!(asked >= 2 && to_clients(&second) < self.package.len() as u64, "{asked}");
        self.costs(0, "the node has it");
        assert!(requests(&first) > asked);

        first.stop();
        self.costs(1, "the second node has to get it");
        let asked = requests(&second);
        assert!(asked >= 2, "{asked}");
        second.stop();
        self.costs(1, "without any node");
        second.run();
        self.costs(0, "a node is back");
        first.run();
        self.costs(0, "both are back");
        assert!(requests(&first) >= 2);

        (self.configure)(&["--undo"]);
        assert_eq!((self.configuration)(), before, "to the byte");
        self.costs(1, "by itself again");
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Removes what a client has kept.
fn forget(folders: &[&Path]) {
    for folder in folders {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder).unwrap();
    }
}

#[test]
fn dnf() {
    let tree = TempDir::new().unwrap();
    let package = std::fs::read(rpm_repository(tree.path())).unwrap();
    let origin = Origin::start();
    origin.put_tree(&tree.path().join("repo"));
    let root = TempDir::new().unwrap();
    let (repos, cache, install) =
        (root.path().join("etc/yum.repos.d"), root.path().join("cache"), root.path().join("i"));
    std::fs::create_dir_all(&repos).unwrap();
    std::fs::write(root.path().join("dnf.conf"), "[main]\n").unwrap();
    let file = repos.join("lab.repo");
    let base = format!("http://{}", origin.address());
    let text = format!(
        "[lab]\nname=lab\n# of the lab\n#baseurl={base}\nmirrorlist=file://{}\ngpgcheck=0",
        tree.path().join("list").display()
    );
    std::fs::write(&file, text).unwrap();
    std::fs::write(tree.path().join("list"), format!("{base}\n")).unwrap();
    let fetch = || {
        forget(&[&cache, &install]);
        let mut dnf = Command::new("dnf");
        dnf.args(["-y", "--releasever=1", "--disableplugin=*", "--setopt=keepcache=1"]);
        dnf.arg("--config").arg(root.path().join("dnf.conf")).arg("--installroot").arg(&install);
        dnf.arg(format!("--setopt=reposdir={}", repos.display())).arg(format!("--setopt=cachedir={}", cache.display()));
        run(dnf.args(["install", "--downloadonly", "imirror-hello"]));
        std::fs::read(find(&cache, "imirror-hello-1.0-1.noarch.rpm").pop().expect("a package")).unwrap()
    };
    let client = Client {
        origin: &origin,
        suffix: ".rpm",
        package,
        configure: &|flags| client_config("dnf", root.path(), flags),
        configuration: &|| read(&file),
        fetch: &fetch,
    };
    client.while_nodes_come_and_go();
}

#[test]
fn zypper() {
    let tree = TempDir::new().unwrap();
    let package = std::fs::read(rpm_repository(tree.path())).unwrap();
    let origin = Origin::start();
    origin.put_tree(&tree.path().join("repo"));
    let root = TempDir::new().unwrap();
    let file = root.path().join("etc/zypp/repos.d/lab.repo");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let text = format!("[lab]\nname=lab\nenabled=1\nautorefresh=0\nbaseurl=http://{}\ngpgcheck=0\n", origin.address());
    std::fs::write(&file, text).unwrap();
    let fetch = || {
        forget(&[&root.path().join("var/cache/zypp")]);
        for words in [&["refresh", "--force"][..], &["install", "--download-only", "imirror-hello"]] {
            let mut zypper = Command::new("zypper");
            zypper.arg("--root").arg(root.path()).args(["--non-interactive", "--no-gpg-checks"]).args(words);
            run(zypper.env("ZYPP_SINGLE_RPMTRANS", "1"));
        }
        std::fs::read(find(&root.path().join("var/cache"), "imirror-hello-1.0-1.noarch.rpm").pop().expect("a package"))
            .unwrap()
    };
    let client = Client {
        origin: &origin,
        suffix: ".rpm",
        package,
        configure: &|flags| client_config("zypper", root.path(), flags),
        configuration: &|| read(&file),
        fetch: &fetch,
    };
    client.while_nodes_come_and_go();
}

#[test]
fn pacman() {
    let tree = TempDir::new().unwrap();
    let package = std::fs::read(pacman_repository(tree.path())).unwrap();
    let origin = Origin::start();
    origin.put_tree(&tree.path().join("repo"));
    let root = TempDir::new().unwrap();
    let file = root.path().join("etc/pacman.conf");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let text =
        format!("[options]\nArchitecture = auto\nSigLevel = Never\n\n[lab]\nServer = http://{}\n", origin.address());
    std::fs::write(&file, text).unwrap();
    let (db, cache, install) = (root.path().join("db"), root.path().join("cache"), root.path().join("i"));
    let fetch = || {
        forget(&[&db, &cache, &install]);
        let mut pacman = Command::new("pacman");
        pacman.args(["-Syw", "--noconfirm", "--config"]).arg(&file).arg("--root").arg(&install);
        run(pacman.arg("--dbpath").arg(&db).arg("--cachedir").arg(&cache).arg("imirror-hello"));
        std::fs::read(find(&cache, PACMAN_PACKAGE).pop().expect("a package")).unwrap()
    };
    let client = Client {
        origin: &origin,
        suffix: ".pkg.tar.gz",
        package,
        configure: &|flags| client_config("pacman", root.path(), flags),
        configuration: &|| read(&file),
        fetch: &fetch,
    };
    client.while_nodes_come_and_go();
}

/// apt with an `/etc/apt` of its own, and these programs at hand.
fn apt(path: &str) {
    let tree = TempDir::new().unwrap();
    let package = std::fs::read(deb_repository(tree.path())).unwrap();
    let origin = Origin::start();
    origin.put_tree(&tree.path().join("repo"));
    let root = TempDir::new().unwrap();
    let etc = root.path().join("etc/apt");
    for folder in ["apt.conf.d", "preferences.d", "sources.list.d", "trusted.gpg.d"] {
        std::fs::create_dir_all(etc.join(folder)).unwrap();
    }
    let sources = format!("deb [trusted=yes arch=amd64] http://{} stable main\n", origin.address());
    std::fs::write(etc.join("sources.list"), sources).unwrap();
    let options = "APT::Architecture \"amd64\";\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n";
    std::fs::write(etc.join("apt.conf.d/10test"), options).unwrap();
    let namespace = Namespace::new();
    namespace.shell("mount --bind \"$1\" /etc/apt", &etc);
    let (state, cache) = (root.path().join("state"), root.path().join("cache"));
    let apt_get = |words: &[&str]| {
        let mut apt = namespace.command("env");
        apt.arg(format!("--chdir={}", cache.display())).arg(format!("PATH={path}")).arg("apt-get");
        for (key, folder) in [("Dir::State", &state), ("Dir::Cache", &cache)] {
            apt.arg("-o").arg(format!("{key}={}", folder.display()));
        }
        run(apt.arg("-o").arg(format!("Dir::State::status={}", root.path().join("status").display())).args(words))
    };
    std::fs::write(root.path().join("status"), "").unwrap();
    let fetch = || {
        forget(&[&state, &cache]);
        forget(&[&state.join("lists/partial"), &cache.join("archives/partial")]);
        apt_get(&["update"]);
        apt_get(&["download", "imirror-hello"]);
        std::fs::read(find(&cache, "imirror-hello_1.0_all.deb").pop().expect("a package")).unwrap()
    };
    let everything = || {
        let mut files = find(&etc, "");
        files.sort();
        files.iter().map(|file| format!("{}\n{}", file.display(), read(file))).collect::<String>()
    };
    let client = Client {
        origin: &origin,
        suffix: ".deb",
        package,
        // As it is typed on the client itself.
        configure: &|flags| run(namespace.command(program()).args(["client-config", "apt"]).args(flags)),
        configuration: &everything,
        fetch: &fetch,
    };
    client.while_nodes_come_and_go();
}

#[test]
fn apt_without_the_program() {
    apt("/usr/sbin:/usr/bin:/sbin:/bin");
}

#[test]
fn apt_with_the_program() {
    let folder = program().parent().unwrap().display().to_string();
    apt(&format!("{folder}:/usr/sbin:/usr/bin:/sbin:/bin"));
}

/// apk, as far as its repositories are concerned: it reads the index of each line, and takes the package from the first line
/// whose index it has.
fn apk_fetch(repositories: &str) -> Vec<u8> {
    let get = |url: &str| {
        let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let stream = std::net::TcpStream::connect(host).ok()?;
        let mut connection = Connection::over(stream);
        connection.send(&format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: libfetch/2.0\r\n\r\n"));
        connection.answer(false).filter(|answer| answer.status == 200)
    };
    let lines = repositories.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let known: Vec<_> =
        lines.filter_map(|line| Some((line, get(&format!("{line}/x86_64/APKINDEX.tar.gz"))?))).collect();
    let (line, index) = known.first().expect("an index");
    let (version, _) = apk::read_index(&index.body);
    get(&format!("{line}/x86_64/hello-{version}.apk")).expect("a package").body
}

#[test]
fn apk() {
    let origin = Origin::start();
    let package = apk::publish(&origin, "1.0-r0", 1, "Mon, 02 Jan 2023 03:04:05 GMT");
    let root = TempDir::new().unwrap();
    let file = root.path().join("etc/apk/repositories");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, format!("/media/cdrom/apks\n{}", origin.url("/v3.20/main")).replace("/media", "#/media"))
        .unwrap();
    let client = Client {
        origin: &origin,
        suffix: ".apk",
        package,
        configure: &|flags| client_config("apk", root.path(), flags),
        configuration: &|| read(&file),
        fetch: &|| apk_fetch(&read(&file)),
    };
    client.while_nodes_come_and_go();
}

#[test]
fn the_page_says_what_to_type() {
    let node = Node::start(&[], "");
    let page = String::from_utf8(node.ask("GET", "/-/clients", &node.address(), &[]).body).unwrap();
    let root = TempDir::new().unwrap();
    std::fs::create_dir_all(root.path().join("etc/apt/apt.conf.d")).unwrap();
    let line =
        page.lines().find_map(|line| line.strip_prefix("# imirror client-config apt ")).expect("the line for apt");
    let flags: Vec<&str> = line.trim_end_matches("</code></pre></section>").split(' ').collect();
    assert_eq!(flags, ["--node", &node.address(), "--apply"]);
    client_config("apt", root.path(), &flags);
    assert!(read(&root.path().join("etc/apt/imirror-proxy-detect")).contains(&node.address()));
}

#[test]
fn what_it_may_not_write_stays_as_it_is() {
    let root = TempDir::new().unwrap();
    let folder = root.path().join("etc/yum.repos.d");
    std::fs::create_dir_all(&folder).unwrap();
    let text = "[a]\nbaseurl=http://example.org/a\n";
    std::fs::write(folder.join("a.repo"), text).unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o555);
    std::fs::set_permissions(&folder, readable).unwrap();
    // Root without its privileges is an ordinary user.
    let mut apply = Command::new("setpriv");
    apply.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(program());
    let ran =
        apply.args(["client-config", "dnf", "--apply", "--node", "lab1", "--root"]).arg(root.path()).output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(
        said.contains("run this as root") && said.contains("a.repo") && said.contains("Permission denied"),
        "{said}"
    );
    assert_eq!(read(&folder.join("a.repo")), text);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}
