use std::fs;

use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// A root with a file in it.
struct Root(tempfile::TempDir);

impl Root {
    fn with(files: &[(&str, &str)]) -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            let path = root.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// What is said, without the name of the root.
    fn run(&self, family: Family, flags: &str) -> Result<(String, bool), String> {
        let root = self.0.path().to_str().unwrap();
        let words = ["x", "--root", root].into_iter().chain(flags.split_whitespace());
        let options = Line::try_parse_from(words).map_err(|e| e.to_string())?.options;
        options.check().map_err(|e| e.to_string())?;
        let said = run(family, &options, &options.node);
        let plain = |text: String| text.replace(root, "");
        said.map(|report| (plain(report.text), report.is_whole)).map_err(|e| plain(format!("{e:#}")))
    }

    fn files(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const REPO: &str = "[lab]\nname=lab\nbaseurl=http://example.org/lab\n[local]\nbaseurl=file:///srv\n";

#[test]
fn it_shows_does_and_takes_back() {
    let root = Root::with(&[("etc/yum.repos.d/lab.repo", REPO), ("etc/yum.repos.d/empty.repo", "")]);
    let (dry, _) = root.run(Family::Dnf, "--apply --dry-run --node lab1:3142").unwrap();
    assert_eq!(root.read("etc/yum.repos.d/lab.repo"), REPO);
    assert!(dry.ends_with("nothing was changed: --dry-run\na repository asks the nodes first and goes on with its own server when none answers\n"), "{dry}");
    let (said, _) = root.run(Family::Dnf, "--apply --node lab1:3142").unwrap();
    insta::assert_snapshot!(said, @r"
    --- /etc/yum.repos.d/lab.repo
    +++ /etc/yum.repos.d/lab.repo
    @@ -1,5 +1,9 @@
     [lab]
     name=lab
    -baseurl=http://example.org/lab
    +# imirror begin: `imirror client-config --undo` takes this out
    +baseurl=http://lab1:3142/example.org/lab
    +        http://example.org/lab
    +# imirror end
    +#imirror# baseurl=http://example.org/lab
     [local]
     baseurl=file:///srv
    left as it is: [local] in lab.repo: file:///srv is not asked for over http or https without a password
    set up; --undo takes it back
    a repository asks the nodes first and goes on with its own server when none answers
    ");
    assert_eq!(root.files("etc/yum.repos.d"), ["empty.repo", "lab.repo", "lab.repo.imirror.orig"]);
    assert_eq!(root.read("etc/yum.repos.d/lab.repo.imirror.orig"), REPO);
    let once = root.read("etc/yum.repos.d/lab.repo");
    let (again, _) = root.run(Family::Dnf, "--apply --node lab1:3142").unwrap();
    assert!(again.contains("it is set up like this already\n") && !again.contains("+++"), "{again}");
    assert_eq!(root.read("etc/yum.repos.d/lab.repo"), once);
    root.run(Family::Dnf, "--apply --node lab2 --node lab3").unwrap();
    let other = root.read("etc/yum.repos.d/lab.repo");
    assert!(other.contains("lab2:3142") && other.contains("lab3:3142") && !other.contains("lab1"), "{other}");
    assert_eq!(root.read("etc/yum.repos.d/lab.repo.imirror.orig"), REPO, "the copy is of what was there first");
    // What somebody else has changed since stays.
    fs::write(root.path("etc/yum.repos.d/lab.repo"), other.replace("name=lab", "name=the lab")).unwrap();
    let (said, is_whole) = root.run(Family::Dnf, "--undo").unwrap();
    assert!(is_whole && said.ends_with("taken back\n"), "{said}");
    assert_eq!(root.read("etc/yum.repos.d/lab.repo"), REPO.replace("name=lab", "name=the lab"));
    assert_eq!(root.files("etc/yum.repos.d"), ["empty.repo", "lab.repo"]);
    let (said, _) = root.run(Family::Dnf, "--undo").unwrap();
    assert_eq!(said, "there is nothing of imirror's to take back\n");
}

#[test]
fn more_downloads_than_the_nodes_are_asked_for_are_told() {
    let root = Root::with(&[
        ("etc/yum.repos.d/lab.repo", REPO),
        ("etc/dnf/dnf.conf", "[main]\nmax_parallel_downloads = 10\n"),
    ]);
    let (said, _) = root.run(Family::Dnf, "--apply --node lab1 --dry-run").unwrap();
    assert!(said.contains("max_parallel_downloads=10 in etc/dnf/dnf.conf: dnf takes 3 files at a time"), "{said}");
    let (said, _) = root.run(Family::Dnf, "--apply --node a --node b --node c --node d --dry-run").unwrap();
    assert!(!said.contains("max_parallel_downloads"), "{said}");
}

#[test]
fn apts_files_are_ours_and_one_that_was_there_comes_back() {
    let theirs = "Acquire::http::Proxy \"http://lab1:3142\";\n";
    let root = Root::with(&[("etc/apt/apt.conf.d/30imirror", theirs)]);
    root.run(Family::Apt, "--apply --node lab1").unwrap();
    assert!(root.read(apt::SETTINGS).contains("Proxy-Auto-Detect \"/etc/apt/imirror-proxy-detect\";"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(root.path(apt::SCRIPT)).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o755);
    let (again, _) = root.run(Family::Apt, "--apply --node lab1").unwrap();
    assert!(again.contains("like this already"), "{again}");
    root.run(Family::Apt, "--apply --node lab2").unwrap();
    root.run(Family::Apt, "--undo").unwrap();
    assert_eq!((root.read(apt::SETTINGS).as_str(), root.files("etc/apt")), (theirs, vec!["apt.conf.d".to_owned()]));
    assert_eq!(root.files("etc/apt/apt.conf.d"), ["30imirror"]);
    fs::remove_file(root.path(apt::SETTINGS)).unwrap();
    root.run(Family::Apt, "--apply --node lab1").unwrap();
    root.run(Family::Apt, "--undo").unwrap();
    assert_eq!(root.files("etc/apt/apt.conf.d"), Vec::<String>::new());
}

#[test]
fn the_other_families() {
    let root = Root::with(&[
        ("etc/zypp/repos.d/lab.repo", REPO),
        ("etc/pacman.conf", "[options]\n[core]\nInclude = /etc/pacman.d/mirrorlist\n"),
        ("etc/pacman.d/mirrorlist", "Server = https://example.org/$repo/os/$arch\n"),
        ("var/lib/pacman/local/pacman-6.1.0-3/desc", ""),
        ("etc/apk/repositories", "https://example.org/alpine/main\n"),
    ]);
    for (family, file, line) in [
        (Family::Zypper, "etc/zypp/repos.d/lab.repo", "baseurl=http://lab1:3142/example.org/lab\n"),
        (Family::Pacman, PACMAN, "CacheServer = http://lab1:3142/HTTPS///example.org/$repo/os/$arch\n"),
        (Family::Pacman, PACMAN, "\nServer = http://lab1:3142/HTTPS///example.org/$repo/os/$arch\n"),
        (Family::Apk, APK, "http://lab1:3142/HTTPS///example.org/alpine/main\n"),
    ] {
        let before = root.read(file);
        root.run(family, "--apply --node lab1").unwrap();
        assert!(root.read(file).contains(line), "{}", root.read(file));
        root.run(family, "--undo").unwrap();
        assert_eq!(root.read(file), before);
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    let root = Root::with(&[
        ("etc/yum.repos.d/a.repo", "[a]\nmetalink=https://example.org/m\n"),
        ("etc/yum.repos.d/b.repo", "[b]\nmetalink=https://example.org/m\n"),
    ]);
    let fails = |family, flags: &str, words: &str| {
        let error = root.run(family, flags).unwrap_err();
        assert!(error.contains(words), "{flags}: {error}");
    };
    fails(Family::Pacman, "--apply --node lab1", "no pacman is installed here: there is no /etc/pacman.conf");
    fails(
        Family::Dnf,
        "--apply --node lab1",
        "nothing of dnf's can be set up\n  [a] in a.repo: it names only a list of mirrors",
    );
    fails(Family::Dnf, "--apply --node lab1 --base a=x", "--base a=x: expected ID=URL");
    fails(Family::Dnf, "--apply --node la;b1", "this is no name of a host");
    fails(Family::Dnf, "--apply --undo", "cannot be used with");
    fails(Family::Dnf, "--dry-run", "go with --apply or --undo");
    root.run(Family::Dnf, "--apply --node lab1 --base a=https://mirror.example.org/a").unwrap();
    assert!(root.read("etc/yum.repos.d/a.repo").contains("http://lab1:3142/HTTPS///mirror.example.org/a\n"));
    // As zypper does when it writes a file anew.
    let text = root.read("etc/yum.repos.d/a.repo");
    let without: String = text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    fs::write(root.path("etc/yum.repos.d/a.repo"), &without).unwrap();
    let (said, is_whole) = root.run(Family::Dnf, "--undo").unwrap();
    assert!(
        !is_whole
            && said.contains(
                "/etc/yum.repos.d/a.repo has lost the marks that --apply made: see /etc/yum.repos.d/a.repo.imirror.orig"
            ),
        "{said}"
    );
    assert_eq!(root.read("etc/yum.repos.d/a.repo"), without);
}
