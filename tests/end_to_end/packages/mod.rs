//! The packages on machines of their own, with the distributions' tools and a systemd: installed, started, used, upgraded, made a second
//! node, removed and purged by the lines that `deploy/README.md` tells people to type.

mod container;
mod files;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use imirror_tests::content;
use imirror_tests::http::{Connection, request_over};
use imirror_tests::machine::Machine;
use imirror_tests::netns::{Host, Lan};
use imirror_tests::node::{Node, program};
use imirror_tests::origin::{Origin, Page};

use super::clients::{deb_repository, rpm_repository, run};
use super::republished::Key;

const SIGNED: &str = "/lab/dists/stable/InRelease";

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(name)
}

/// The commands of `deploy/README.md`, under the headings where they stand.
fn recipes() -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(source("deploy/README.md")).unwrap();
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            found.push((heading.to_owned(), Vec::new()));
        } else if let Some(command) = line.strip_prefix("    ") {
            found.last_mut().unwrap().1.push(command.trim().to_owned());
        }
    }
    found
}

/// Those of one heading, so many as the test knows of.
fn recipe<const N: usize>(heading: &str) -> [String; N] {
    let found = recipes().into_iter().find(|(name, _)| name == heading).expect(heading).1;
    found.try_into().unwrap_or_else(|found| panic!("{heading}: {N} commands are run, there are {found:?}"))
}

/// Builds one package of the program that is tested, as another version and with a new line in its configuration if that is not empty.
fn build(kind: &str, version: &str, new_line: &str, out: &Path) {
    let [command] = recipe::<1>("Build the packages");
    let tree = tempfile::tempdir().unwrap();
    run(Command::new("cp").arg("-r").args([source("deploy"), source("README.md")]).arg(tree.path()));
    run(Command::new("cp").args([source("LICENSE-MIT"), source("LICENSE-APACHE")]).arg(tree.path()));
    let config = tree.path().join("deploy/etc/imirror.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{new_line}{text}")).unwrap();
    let mut build = Command::new("sh");
    build.args(["-ec", &format!("{command} \"$@\""), "sh", "--fast", "--version", version, kind]);
    run(build.arg("--binary").arg(program()).arg("--out").arg(out).current_dir(tree.path()));
}

/// What the two families of distributions do in their own ways.
struct Family {
    kind: &'static str,
    /// Before anything is installed.
    prepare: fn(&Machine),
    install: Vec<String>,
    /// What is said of the version that is installed.
    version: &'static str,
    remove: String,
    purge: Vec<String>,
    /// Makes a repository and says what its package ends with.
    repository: fn(&Path) -> PathBuf,
    /// Sets the machine up as a client of the node at `$NODE` for the repository at `$ORIGIN`.
    client: &'static str,
    /// Installs the package, again if it is there.
    fetch: &'static str,
    /// Where the package manager has put a configuration that it did not replace, and one that was left over.
    new_configuration: &'static str,
    left_configuration: &'static str,
}

fn debian() -> Family {
    let [install, remove, purge] = recipe("Debian, Ubuntu");
    Family {
        kind: "deb",
        prepare: |machine| {
            // As where upgrades come unattended.
            machine.shell(
                "echo 'DPkg::Options { \"--force-confold\"; };' > /etc/apt/apt.conf.d/50unattended
                 rm -f /etc/apt/sources.list.d/*",
            );
        },
        install: vec![install],
        version: "dpkg-query -W -f '${Version}' imirror",
        remove,
        purge: vec![purge],
        repository: deb_repository,
        client: "echo \"deb [trusted=yes] $ORIGIN stable main\" > /etc/apt/sources.list
            echo \"Acquire::http::Proxy \\\"http://$NODE\\\";\" > /etc/apt/apt.conf.d/30imirror",
        fetch: "apt-get update; apt-get clean; apt-get install --reinstall imirror-hello",
        new_configuration: "/etc/imirror/imirror.toml.dpkg-dist",
        left_configuration: "/etc/imirror/imirror.toml",
    }
}

fn fedora() -> Family {
    let [install, start, remove, folders, user] = recipe("Fedora, openSUSE and their kin");
    Family {
        kind: "rpm",
        // What this machine has came in other packages: one stands for it and provides what the program is really linked with.
        prepare: |machine| {
            let provided = "for library in $(ldd /bin/sh \"$0\" | grep -o '/[^ ]*\\.so[^ ]*' | sort -u); do
                  realpath \"$library\"; done | /usr/lib/rpm/elfdeps --provides | sort -u";
            let provided = run(Command::new("sh").args(["-ec", provided]).arg(program()));
            let mut spec = "Name: this-machine\nVersion: 1\nRelease: 1\nSummary: test\nLicense: MIT\nBuildArch: noarch\n".to_owned();
            for name in ["/bin/sh", "systemd = 250", "rtld(GNU_HASH)"].into_iter().chain(provided.lines()) {
                spec += &format!("Provides: {name}\n");
            }
            std::fs::write(machine.shared().join("this-machine.spec"), spec + "%description\ntest\n%files\n").unwrap();
            machine.shell(
                "rpmbuild -bb --quiet --define '_topdir /tmp/build' this-machine.spec
                 rpm --install /tmp/build/RPMS/noarch/this-machine-1-1.noarch.rpm
                 mkdir -p /etc/dnf/vars && echo 1 > /etc/dnf/vars/releasever",
            );
        },
        install: vec![install, start],
        version: "rpm -q --qf '%{VERSION}-%{RELEASE}' imirror",
        purge: vec![remove.clone(), folders, user],
        remove,
        repository: rpm_repository,
        client: "mkdir -p /etc/yum.repos.d
            printf \"[lab]\\nname=lab\\ngpgcheck=0\\nbaseurl=$ORIGIN\\nproxy=http://$NODE\\n\" > /etc/yum.repos.d/lab.repo",
        fetch: "dnf clean all; if rpm -q imirror-hello; then dnf reinstall imirror-hello; else dnf install imirror-hello; fi",
        new_configuration: "/etc/imirror/imirror.toml.rpmnew",
        left_configuration: "/etc/imirror/imirror.toml.rpmsave",
    }
}

/// A machine with a package, on a LAN with a node that was there before and an origin that counts.
struct Trial {
    family: Family,
    /// How the program is called on the machine.
    program: &'static str,
    origin: Origin,
    /// Bytes of the one package of the origin.
    package: usize,
    machine: Machine,
    first: Node,
    /// Last: what is on it ends with it.
    lan: Lan,
}

impl Trial {
    fn new(family: Family) -> Self {
        let lan = Lan::new(2);
        let origin = Origin::start_on(lan.uplink().listen());
        let tree = tempfile::tempdir().unwrap();
        let package = std::fs::metadata((family.repository)(tree.path())).unwrap().len() as usize;
        origin.put_tree(&tree.path().join("repo"));
        let mut first = Node::on(lan.host(0), "first", "");
        first.run();
        let machine = Machine::start(lan.host(1), "second");
        (family.prepare)(&machine);
        Self { family, program: "imirror", origin, package, machine, first, lan }
    }

    /// Installs a package by the lines that people are told to type, in a folder that has just that.
    fn install(&self, version: &str, new_line: &str) {
        let machine = &self.machine;
        let built = machine.shared().join(version);
        if !built.exists() {
            build(self.family.kind, version, new_line, &built);
        }
        machine.shell(&format!("rm -f imirror[_-]*; cp {version}/* ."));
        self.family.install.iter().for_each(|line| drop(machine.shell(line)));
        assert_eq!(machine.shell(self.family.version), format!("{version}-1"));
        assert_eq!(machine.shell("systemctl is-active imirror; systemctl is-enabled imirror"), "active\nenabled\n");
    }

    /// What the node there says of itself.
    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.machine.shell(&format!("{} status --json", self.program))).unwrap()
    }

    fn node_address(&self) -> String {
        format!("{}:3142", self.machine.host().address())
    }

    /// The package manager of the machine gets a package through the node.
    fn fetch(&self) {
        let (origin, node) = (self.origin.url(""), self.node_address());
        self.machine.shell(&format!("ORIGIN={origin} NODE={node}\n{}", self.family.client));
        self.machine.shell(self.family.fetch);
        let installed = std::fs::read(self.machine.path("/usr/share/hello/data")).unwrap();
        assert!(installed == content(1, 3_000_000) || installed == content(2, 2_000_000));
        assert_eq!(self.origin.sent(&format!(".{}", self.family.kind)), self.package, "it crosses the uplink once");
    }

    /// The process is what the unit wants it to be, its files are its user's, and what comes with the program is in place.
    fn is_as_it_should_be(&self) {
        let machine = &self.machine;
        let confined = "grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/$(systemctl show -P MainPID imirror)/status";
        assert_eq!(machine.shell(confined), "CapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n");
        let owners =
            "cd /var/lib/imirror; stat -c '%U:%G %a %n' . /var/cache/imirror token node.key /run/imirror/control.sock
             stat -c %U /proc/$(systemctl show -P MainPID imirror)";
        assert_eq!(
            machine.shell(owners),
            "imirror:imirror 750 .\nimirror:imirror 750 /var/cache/imirror\nimirror:imirror 600 token\n\
             imirror:imirror 600 node.key\nimirror:imirror 600 /run/imirror/control.sock\nimirror\n"
        );
        assert_eq!(machine.shell("cat /proc/sys/net/core/rmem_max /proc/sys/net/core/wmem_max"), "8388608\n8388608\n");
        machine.shell(
            "man --where imirror imirror-join imirror-site-show
             bash -c 'source /usr/share/bash-completion/completions/imirror; complete -p imirror'
             imirror config check; test -d /etc/imirror/conf.d; imirror status; imirror site show
             test -f /usr/share/doc/imirror/examples/prometheus/alerts.yml",
        );
        let listening =
            machine.shell("journalctl -u imirror -o json --output-fields MESSAGE,PRIORITY,SYSLOG_IDENTIFIER");
        let listening = listening.lines().find(|line| line.contains("listens on")).expect("it is in the journal");
        let entry: serde_json::Value = serde_json::from_str(listening).unwrap();
        assert_eq!((entry["PRIORITY"].as_str(), entry["SYSLOG_IDENTIFIER"].as_str()), (Some("6"), Some("imirror")));
    }

    /// The first node's site and its token.
    fn site(&self) -> serde_json::Value {
        let shown = self.first.command(&["site", "show", "--json"]).output().unwrap();
        serde_json::from_slice(&shown.stdout).unwrap()
    }

    /// Root makes the machine a node of the first one's site.
    fn join(&self) {
        let shown = self.site();
        let [line] = recipe::<1>("A second node");
        assert!(line.contains("im1…"));
        let said = self.machine.shell(&line.replace("im1…", shown["token"].as_str().unwrap()));
        assert!(said.contains(shown["id"].as_str().unwrap()), "{said}");
        assert_eq!(self.machine.shell("stat -c '%U:%G %a' /var/lib/imirror/token"), "imirror:imirror 600\n");
        self.is_member();
        let logged = self.machine.shell("journalctl -u imirror");
        assert!(!logged.contains(shown["token"].as_str().unwrap()), "a secret is in the log");
    }

    fn is_member(&self) {
        let both = |status: serde_json::Value| {
            let nodes = status["site"]["nodes"].as_array().unwrap();
            nodes.iter().filter(|node| node["state"] == "alive").count() == 2
        };
        self.machine.wait_for("the nodes know each other", || both(self.status()) && both(self.first.status()));
    }

    /// Firewalls that let nothing in let it in when they are told to: clients and the other node.
    fn passes_firewalls(&self) {
        let (machine, node) = (&self.machine, self.node_address().parse().unwrap());
        let [permit, reload, ufw] = recipe("Firewall");
        let is_open = || self.first_host().connect(node).is_ok();
        let is_through = || {
            machine.wait_for("clients are let in", is_open);
            // Everybody has to be found again.
            machine.shell("systemctl restart imirror");
            self.is_member();
        };
        machine.shell("systemctl unmask firewalld ufw; systemctl start firewalld");
        machine.wait_for("firewalld lets nobody in", || !is_open());
        machine.shell(&format!("{permit}\n{reload}"));
        is_through();
        machine.shell("systemctl stop firewalld; ufw --force enable");
        machine.shell(&ufw);
        is_through();
        machine.shell("ufw disable");
    }

    fn first_host(&self) -> &Host {
        self.lan.host(0)
    }

    /// Configures what a package must not touch: a name, and a repository whose signatures are checked by another program.
    fn configure(&self, key: &Key) {
        std::fs::copy(key.public(), self.machine.shared().join("lab.gpg")).unwrap();
        let lab =
            format!("[repos.lab]\nupstreams = [\"{}\"]\nkeyring = \"/etc/imirror/lab.gpg\"\n", self.origin.url("/lab"));
        std::fs::write(self.machine.shared().join("lab.toml"), lab).unwrap();
        self.machine.shell(
            "sed -i 's/^#name = .*/name = \"kept\"/' /etc/imirror/imirror.toml
             cp lab.gpg /etc/imirror; cp lab.toml /etc/imirror/conf.d
             chmod 640 /var/lib/imirror/token",
        );
    }

    /// What is signed is handed out, what is not is refused: the other program runs as confined as the node is.
    fn checks_signatures(&self, key: &Key, stranger: &Key) {
        let get = || {
            let stream = self.machine.host().connect(self.node_address().parse().unwrap()).unwrap();
            request_over(Connection::over(stream), "GET", SIGNED, "kept", &["Cache-Control: max-age=0"]).status
        };
        let release = "Suite: stable\nDate: Sat, 01 Nov 2025 10:11:12 UTC\nSHA256:\n";
        self.origin.put(SIGNED, Page::new(stranger.clear_sign(release)));
        assert_eq!(get(), 502);
        self.origin.put(SIGNED, Page::new(key.clear_sign(release)));
        assert_eq!(get(), 200);
    }

    /// Nobody is refused while the node is started again and systemd holds the socket.
    fn a_restart_refuses_nobody(&self) {
        recipe::<3>("A restart that refuses nobody").iter().for_each(|line| drop(self.machine.shell(line)));
        let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        let ask = || {
            let stream = self.machine.host().connect(self.node_address().parse().unwrap()).unwrap();
            let answer = request_over(Connection::over(stream), "GET", "/-/health", "kept", &["Connection: close"]);
            assert_eq!(answer.status, 200);
            answered.fetch_add(1, Ordering::SeqCst);
        };
        let before = self.machine.shell("systemctl show -P MainPID imirror");
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    ask();
                }
            });
            let restarted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for _ in 0..3 {
                    let seen = answered.load(Ordering::SeqCst);
                    self.machine.wait_for("clients are served", || {
                        answered.load(Ordering::SeqCst) > seen || client.is_finished()
                    });
                    self.machine.shell("systemctl restart imirror");
                }
            }));
            done.store(true, Ordering::SeqCst);
            client.join().expect("every client gets its answer");
            restarted.unwrap();
        });
        assert_ne!(self.machine.shell("systemctl show -P MainPID imirror"), before);
        // Also one that comes while there is no node at all.
        self.machine.shell("systemctl stop imirror");
        ask();
        self.machine.wait_for("it is up again", || self.machine.succeeds("systemctl --quiet is-active imirror"));
    }

    /// Everything that bears the name, but what the client has installed.
    fn left(&self) -> String {
        self.machine.shell(
            "find /etc /usr /var /run -xdev -name '*imirror*' ! -path '*imirror-hello*' ! -name 30imirror
             getent passwd imirror || getent group imirror || true
             systemctl list-unit-files --no-legend 'imirror*' || true",
        )
    }

    fn life(&self) {
        let (machine, family) = (&self.machine, &self.family);
        assert_eq!(self.left(), "", "before");
        self.install("0.1.0", "");
        self.is_as_it_should_be();
        self.fetch();
        self.join();
        let before = self.status();

        let (key, stranger) = (Key::new(), Key::new());
        self.configure(&key);
        self.install("0.1.1", "# A new word on it.\n");
        assert!(machine.path(family.new_configuration).exists(), "the new configuration lies beside the old one");
        let after = self.status();
        assert_eq!(after["node"]["name"], "kept");
        for same in ["/node/id", "/site/id", "/cache/objects"] {
            assert_eq!(after.pointer(same), before.pointer(same), "{same}");
        }
        let warnings = machine.shell("journalctl -u imirror -p warning -o cat");
        assert!(warnings.contains("chmod 600") && !warnings.contains("listens on"), "{warnings}");
        self.is_member();
        self.fetch();
        self.checks_signatures(&key, &stranger);
        self.a_restart_refuses_nobody();

        machine.shell(&family.remove);
        assert!(
            !machine.path("/usr/bin/imirror").exists()
                && !machine.succeeds("systemctl is-active imirror imirror.socket")
        );
        for kept in [
            "/var/lib/imirror/node.key",
            "/var/lib/imirror/token",
            "/var/cache/imirror/index.redb",
            family.left_configuration,
        ] {
            assert!(machine.path(kept).exists(), "{kept}");
        }
        self.install("0.1.1", "# A new word on it.\n");
        assert_eq!(self.status()["node"]["id"], before["node"]["id"], "it is back as who it was");
        family.purge.iter().for_each(|line| drop(machine.shell(line)));
        assert_eq!(self.left(), "");
    }
}

#[test]
fn the_deb_lives_and_goes() {
    Trial::new(debian()).life();
}

#[test]
fn firewalls_let_it_through() {
    let trial = Trial::new(debian());
    trial.install("0.1.0", "");
    trial.join();
    trial.passes_firewalls();
}

#[test]
fn the_rpm_lives_and_goes() {
    let trial = Trial::new(fedora());
    trial.life();
    // The other package manager of the family, which sees none of what was installed before in Debian's database; and a store in
    // another place.
    let other = trial.family.install[0].split_once("# or: ").unwrap().1;
    trial.machine.shell(&format!(
        "rpm --erase this-machine
         mkdir others && cp /tmp/build/RPMS/noarch/this-machine-1-1.noarch.rpm others
         zypper addrepo --no-gpgcheck dir:/mnt/others others
         {other}
         systemctl enable --now imirror"
    ));
    recipe::<6>("Settings").iter().for_each(|line| drop(trial.machine.shell(line)));
    trial.status();
    assert!(trial.machine.path("/srv/imirror/index.redb").exists());
}
