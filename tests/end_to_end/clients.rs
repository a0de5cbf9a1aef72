//! Real package managers against generated repositories, through the proxy and through the mirror path: the second client
//! costs no package byte.

use std::path::{Path, PathBuf};
use std::process::Command;

use imirror_tests::node::{Node, free_port};
use imirror_tests::origin::Origin;
use imirror_tests::tls::Authority;
use imirror_tests::{content, sha256};
use tempfile::TempDir;

pub(super) fn run(command: &mut Command) -> String {
    let output = command.env_remove("http_proxy").env("LC_ALL", "C").output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{text}");
    text
}

pub(super) fn find(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).unwrap().flatten() {
            let path = file.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found
}

/// Two clients in turn by each way in; `client` gets the node's address, whether to use it as a proxy, and an empty folder,
/// and returns the package as it got it.
fn two_by_two(origin: &Origin, package: &Path, suffix: &str, client: impl Fn(&Node, bool, &Path) -> Vec<u8>) {
    two_by_two_of(&Node::start(&[origin.address()], ""), origin, package, suffix, client);
}

fn two_by_two_of(
    node: &Node,
    origin: &Origin,
    package: &Path,
    suffix: &str,
    client: impl Fn(&Node, bool, &Path) -> Vec<u8>,
) {
    let wanted = std::fs::read(package).unwrap();
    for as_proxy in [true, false] {
        for _ in 0..2 {
            let folder = tempfile::tempdir().unwrap();
            let got = client(node, as_proxy, folder.path());
            assert_eq!(sha256(&got), sha256(&wanted), "as a proxy: {as_proxy}");
        }
    }
    assert_eq!(origin.sent(suffix), wanted.len(), "four clients, one download");
}

/// Makes `repo` below a folder; returns its one package.
pub(super) fn deb_repository(root: &Path) -> PathBuf {
    let build = root.join("build");
    std::fs::create_dir_all(build.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(build.join("usr/share/hello")).unwrap();
    std::fs::create_dir_all(root.join("repo/pool")).unwrap();
    let control =
        "Package: imirror-hello\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: test\n";
    std::fs::write(build.join("DEBIAN/control"), control).unwrap();
    std::fs::write(build.join("usr/share/hello/data"), content(1, 3_000_000)).unwrap();
    let package = root.join("repo/pool/imirror-hello_1.0_all.deb");
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "-b"]).arg(&build).arg(&package));
    let lists = "mkdir -p dists/stable/main/binary-amd64 && \
        apt-ftparchive packages pool > dists/stable/main/binary-amd64/Packages && \
        gzip -k dists/stable/main/binary-amd64/Packages && \
        apt-ftparchive -o APT::FTPArchive::Release::Suite=stable -o APT::FTPArchive::Release::Components=main \
          -o APT::FTPArchive::Release::Architectures=amd64 -o APT::FTPArchive::Release::Acquire-By-Hash=no \
          release dists/stable > Release.new && mv Release.new dists/stable/Release";
    run(Command::new("sh").args(["-c", lists]).current_dir(root.join("repo")));
    package
}

/// `apt-get update` and `apt-get download` in a folder of its own.
pub(super) fn apt_get(base: &str, proxy: &str, folder: &Path) -> Vec<u8> {
    apt_update(base, proxy, folder);
    apt_download(proxy, folder)
}

pub(super) fn apt_update(base: &str, proxy: &str, folder: &Path) {
    run(apt_command(&format!("deb [trusted=yes arch=amd64] {base} stable main\n"), proxy, folder).arg("update"));
}

/// After an update.
pub(super) fn apt_download(proxy: &str, folder: &Path) -> Vec<u8> {
    run(apt(proxy, folder).args(["download", "imirror-hello"]));
    std::fs::read(find(folder, "imirror-hello_1.0_all.deb").pop().expect("a package")).unwrap()
}

/// Downloads what an installation needs, after an update; returns the names of the files.
pub(super) fn apt_install(proxy: &str, folder: &Path, package: &str) -> Vec<String> {
    run(apt(proxy, folder).args(["--yes", "--allow-unauthenticated", "--download-only", "install", package]));
    let files = find(&folder.join("cache/archives"), ".deb").into_iter();
    files.map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// apt-get in a folder of its own, with these sources.
pub(super) fn apt_command(sources: &str, proxy: &str, folder: &Path) -> Command {
    for part in ["state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
    }
    std::fs::write(folder.join("status"), "").unwrap();
    std::fs::write(folder.join("sources.list"), sources).unwrap();
    apt(proxy, folder)
}

fn apt(proxy: &str, folder: &Path) -> Command {
    let set = |key: &str, value: &str| ["-o".to_owned(), format!("{key}={value}")];
    let path = |part: &str| folder.join(part).display().to_string();
    let options = [
        set("Dir::State", &path("state")),
        set("Dir::Cache", &path("cache")),
        set("Dir::Etc", &path("etc")),
        set("Dir::Etc::sourcelist", &path("sources.list")),
        set("Dir::State::status", &path("status")),
        set("APT::Architecture", "amd64"),
        set("APT::Sandbox::User", "root"),
        set("Acquire::http::Proxy", proxy),
        set("Acquire::Languages", "none"),
    ];
    let mut command = Command::new("apt-get");
    command.current_dir(folder).args(options.concat());
    command
}

#[test]
fn apt_by_each_way() {
    let tree = TempDir::new().unwrap();
    let package = deb_repository(tree.path());
    let origin = Origin::start();
    origin.put_tree(&tree.path().join("repo"));
    two_by_two(&origin, &package, ".deb", |node, as_proxy, folder| match as_proxy {
        true => apt_get(&format!("http://{}", origin.address()), &format!("http://{}", node.address()), folder),
        false => apt_get(&format!("http://{}/{}", node.address(), origin.address()), "DIRECT", folder),
    });
}

#[test]
fn apt_with_an_https_upstream() {
    let tree = TempDir::new().unwrap();
    let package = deb_repository(tree.path());
    let authority = Authority::default();
    let origin = Origin::start_tls(authority.server("127.0.0.1", (2000, 2100)));
    origin.put_tree(&tree.path().join("repo"));
    let bundle = tree.path().join("bundle.pem");
    std::fs::write(&bundle, authority.pem()).unwrap();
    let node = Node::new(free_port(), &[origin.address()], "");
    let mut node = node.with_variable("SSL_CERT_FILE", bundle.to_str().unwrap());
    node.run();
    two_by_two_of(&node, &origin, &package, ".deb", |node, as_proxy, folder| match as_proxy {
        true => apt_get(&format!("http://HTTPS///{}", origin.address()), &format!("http://{}", node.address()), folder),
        false => apt_get(&format!("http://{}/HTTPS///{}", node.address(), origin.address()), "DIRECT", folder),
    });
}

pub(super) fn rpm_repository(root: &Path) -> PathBuf {
    let spec = "Name: imirror-hello\nVersion: 1.0\nRelease: 1\nSummary: test\nLicense: MIT\nBuildArch: noarch\n%description\ntest\n\
                %install\nmkdir -p %{buildroot}/usr/share/hello\ncp %{_sourcedir}/data %{buildroot}/usr/share/hello/data\n\
                %files\n/usr/share/hello/data\n";
    std::fs::create_dir_all(root.join("repo/Packages")).unwrap();
    std::fs::create_dir_all(root.join("SOURCES")).unwrap();
    std::fs::write(root.join("hello.spec"), spec).unwrap();
    std::fs::write(root.join("SOURCES/data"), content(2, 2_000_000)).unwrap();
    run(Command::new("rpmbuild")
        .args(["-bb", "--quiet", "--define"])
        .arg(format!("_topdir {}", root.display()))
        .arg(root.join("hello.spec")));
    let built = find(&root.join("RPMS"), ".rpm").pop().expect("a package");
    let package = root.join("repo/Packages").join(built.file_name().unwrap());
    std::fs::rename(built, &package).unwrap();
    run(Command::new("createrepo_c").arg("-q").arg(root.join("repo")));
    package
}

/// Downloads the package of a repository that these lines say how to reach.
pub(super) fn dnf_install(lines: &str, folder: &Path) -> Command {
    let mut command = dnf_command(lines, folder);
    command.args(["install", "--downloadonly", "imirror-hello"]);
    command
}

/// dnf in a folder of its own, with these lines for its repository.
pub(super) fn dnf_command(lines: &str, folder: &Path) -> Command {
    std::fs::create_dir_all(folder.join("repos")).unwrap();
    std::fs::write(folder.join("repos/a.repo"), format!("[a]\nname=a\ngpgcheck=0\n{lines}")).unwrap();
    std::fs::write(folder.join("dnf.conf"), "[main]\n").unwrap();
    let mut command = Command::new("dnf");
    command
        .arg("-y")
        .arg("--config")
        .arg(folder.join("dnf.conf"))
        .arg("--installroot")
        .arg(folder.join("root"))
        .arg(format!("--setopt=reposdir={}", folder.join("repos").display()))
        .arg(format!("--setopt=cachedir={}", folder.join("cache").display()))
        .args(["--setopt=keepcache=1", "--setopt=fastestmirror=0", "--releasever=1", "--disableplugin=*"]);
    command
}

/// What it has downloaded.
pub(super) fn dnf_has(folder: &Path) -> Vec<u8> {
    std::fs::read(find(folder, "imirror-hello-1.0-1.noarch.rpm").pop().expect("a package")).unwrap()
}

#[test]
fn dnf() {
    let tree = TempDir::new().unwrap();
    let package = rpm_repository(tree.path());
    let origin = Origin::start();
    origin.put_tree(&tree.path().join("repo"));
    two_by_two(&origin, &package, ".rpm", |node, as_proxy, folder| {
        let base = match as_proxy {
            true => format!("http://{}", origin.address()),
            false => format!("http://{}/{}", node.address(), origin.address()),
        };
        let proxy = if as_proxy { format!("proxy=http://{}\n", node.address()) } else { String::new() };
        run(&mut dnf_install(&format!("baseurl={base}\n{proxy}"), folder));
        dnf_has(folder)
    });
}

#[test]
fn zypper() {
    let tree = TempDir::new().unwrap();
    let package = rpm_repository(tree.path());
    let origin = Origin::start();
    origin.put_tree(&tree.path().join("repo"));
    two_by_two(&origin, &package, ".rpm", |node, as_proxy, folder| {
        let base = match as_proxy {
            true => format!("http://{}", origin.address()),
            false => format!("http://{}/{}", node.address(), origin.address()),
        };
        let zypper = |words: &[&str]| {
            let mut command = Command::new("zypper");
            command.arg("--root").arg(folder).args(["--non-interactive", "--no-gpg-checks"]).args(words);
            command.env("ZYPP_SINGLE_RPMTRANS", "1");
            let output = {
                if as_proxy {
                    command.env("http_proxy", format!("http://{}", node.address()));
                } else {
                    command.env_remove("http_proxy");
                }
                command.env("LC_ALL", "C").output().unwrap()
            };
            let text =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{words:?}\n{text}");
        };
        zypper(&["addrepo", "--no-gpgcheck", &base, "a"]);
        zypper(&["refresh"]);
        zypper(&["install", "--download-only", "imirror-hello"]);
        std::fs::read(find(folder, "imirror-hello-1.0-1.noarch.rpm").pop().expect("a package")).unwrap()
    });
}

/// The file of the one package of [`pacman_repository`].
pub(super) const PACMAN_PACKAGE: &str = "imirror-hello-1.0-1-any.pkg.tar.gz";

/// Makes `repo` below a folder, the repository `lab`; returns its one package.
pub(super) fn pacman_repository(root: &Path) -> PathBuf {
    let repo = root.join("repo");
    std::fs::create_dir_all(root.join("pkg/usr/share/hello")).unwrap();
    std::fs::create_dir_all(root.join("db/imirror-hello-1.0-1")).unwrap();
    std::fs::create_dir_all(&repo).unwrap();
    std::fs::write(root.join("pkg/usr/share/hello/data"), content(3, 2_000_000)).unwrap();
    let info = "pkgname = imirror-hello\npkgver = 1.0-1\npkgdesc = test\narch = any\nsize = 2000000\n";
    std::fs::write(root.join("pkg/.PKGINFO"), info).unwrap();
    let package = repo.join(PACMAN_PACKAGE);
    run(Command::new("bsdtar").arg("-czf").arg(&package).args([".PKGINFO", "usr"]).current_dir(root.join("pkg")));
    let bytes = std::fs::read(&package).unwrap();
    let desc = format!(
        "%FILENAME%\n{PACMAN_PACKAGE}\n\n%NAME%\nimirror-hello\n\n%VERSION%\n1.0-1\n\n%CSIZE%\n{}\n\n%ISIZE%\n2000000\n\n%SHA256SUM%\n{}\n\n%ARCH%\nany\n\n",
        bytes.len(),
        sha256(&bytes)
    );
    std::fs::write(root.join("db/imirror-hello-1.0-1/desc"), desc).unwrap();
    run(Command::new("bsdtar")
        .arg("-czf")
        .arg(repo.join("lab.db"))
        .arg("imirror-hello-1.0-1")
        .current_dir(root.join("db")));
    package
}

#[test]
fn pacman() {
    let tree = TempDir::new().unwrap();
    let package = pacman_repository(tree.path());
    let origin = Origin::start();
    origin.put_tree(&tree.path().join("repo"));
    two_by_two(&origin, &package, ".pkg.tar.gz", |node, as_proxy, folder| {
        let base = match as_proxy {
            true => format!("http://{}", origin.address()),
            false => format!("http://{}/{}", node.address(), origin.address()),
        };
        for part in ["db", "cache", "root"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
        }
        let config = format!("[options]\nArchitecture = auto\nSigLevel = Never\n[lab]\nServer = {base}\n");
        std::fs::write(folder.join("pacman.conf"), config).unwrap();
        let mut command = Command::new("pacman");
        command.args(["-Syw", "--noconfirm", "--config"]).arg(folder.join("pacman.conf"));
        command.arg("--root").arg(folder.join("root")).arg("--dbpath").arg(folder.join("db"));
        command.arg("--cachedir").arg(folder.join("cache")).arg("imirror-hello");
        let output = {
            if as_proxy {
                command.env("http_proxy", format!("http://{}", node.address()));
            } else {
                command.env_remove("http_proxy");
            }
            command.env("LC_ALL", "C").output().unwrap()
        };
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}");
        std::fs::read(find(&folder.join("cache"), PACMAN_PACKAGE).pop().expect("a package")).unwrap()
    });
}
