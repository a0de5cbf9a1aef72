//! What the packages consist of, each file by the program that reads it, or by its own rules where that cannot be had everywhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use imirror::config::keys::KEYS;
use imirror_tests::node::program;

use super::{recipes, run, source};

fn read(name: &str) -> String {
    std::fs::read_to_string(source(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The unit among its kin in a folder of its own, which is the root of a file system for the tool.
fn unit_root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("usr/lib/systemd/system");
    std::fs::create_dir_all(&units).unwrap();
    for unit in ["imirror.service", "imirror.socket"] {
        std::fs::copy(source("deploy/systemd").join(unit), units.join(unit)).unwrap();
    }
    root
}

#[test]
fn the_units_are_sound() {
    let folder = tempfile::tempdir().unwrap();
    let bin = program();
    for unit in ["imirror.service", "imirror.socket"] {
        // The program need not be installed here.
        let text = read(&format!("deploy/systemd/{unit}")).replace("/usr/bin/imirror", bin.to_str().unwrap());
        std::fs::write(folder.path().join(unit), text).unwrap();
    }
    let said = run(Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no", "imirror.service", "imirror.socket"])
        .current_dir(folder.path()));
    assert_eq!(said, "");
}

#[test]
fn the_unit_is_hardened() {
    let root = unit_root();
    let said = run(Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true", "--threshold=15", "--root"])
        .arg(root.path())
        .arg("imirror.service"));
    assert!(said.contains("Overall exposure level for imirror.service"), "{said}");
}

#[test]
fn user_and_folders_are_made_as_the_unit_wants_them() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("etc")).unwrap();
    let run_on = |tool: &mut Command, folder: &str| {
        let there = root.path().join("usr/lib").join(folder);
        std::fs::create_dir_all(&there).unwrap();
        std::fs::copy(source("deploy").join(folder).join("imirror.conf"), there.join("imirror.conf")).unwrap();
        run(tool.arg("--root").arg(root.path()).arg("imirror.conf"));
    };
    run_on(&mut Command::new("systemd-sysusers"), "sysusers.d");
    let users = std::fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    assert!(users.starts_with("imirror:") && users.contains(":/var/lib/imirror:/usr/sbin/nologin"), "{users}");
    run_on(Command::new("systemd-tmpfiles").arg("--create"), "tmpfiles.d");
    let unit = read("deploy/systemd/imirror.service");
    for (key, folder) in [("StateDirectory", "var/lib"), ("CacheDirectory", "var/cache")] {
        let metadata = std::fs::metadata(root.path().join(folder).join("imirror")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
        assert!(unit.contains(&format!("\n{key}=imirror\n{key}Mode=0{mode:o}\n")), "{folder} {mode:o}");
    }
}

#[test]
fn the_configuration_names_every_key_with_its_default() {
    let text = read("deploy/etc/imirror.toml");
    assert!(
        text.lines().all(|line| line.is_empty() || line.starts_with('#') || line.starts_with('[')),
        "nothing is set"
    );
    // A line without a space after its `#` is one that can be taken into use.
    let used: String = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '['])).unwrap_or(line))
        .fold(String::new(), |all, line| all + line + "\n");
    let (mut section, mut written) = (String::new(), BTreeMap::new());
    for line in used.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((key, value)) = line.split_once(" = ") {
            written.insert(format!("{section}{key}"), value.to_owned());
        }
    }
    for key in KEYS {
        let value = written.get(key.name).unwrap_or_else(|| panic!("{} is not there", key.name));
        assert!(key.default.is_empty() || value == key.default, "{} is {} by default", key.name, key.default);
    }
    // As it is, and with the keys of repositories, which have no section of their own here.
    let folder = tempfile::tempdir().unwrap();
    let all = used.replace("\n#[repos.fedora]", "\n[repos.fedora]").replace("\nmetalink = ", "\n#metalink = ");
    let all = all.replace("\ntoken", "\n#token").replace("\nkeyring = ", "\n#keyring = ");
    for (name, text) in [("as_it_is.toml", &text), ("all.toml", &all)] {
        std::fs::write(folder.path().join(name), text).unwrap();
        run(Command::new(program()).args(["config", "check", "--config"]).arg(folder.path().join(name)));
    }
}

#[test]
fn nothing_stands_in_the_recipes_that_no_test_runs() {
    // Those of each heading are counted where they are run.
    let headings: Vec<String> =
        recipes().into_iter().filter(|(_, commands)| !commands.is_empty()).map(|(heading, _)| heading).collect();
    let run_on_machines = [
        "Container",
        "Firewall",
        "Build the packages",
        "Debian, Ubuntu",
        "Fedora, openSUSE and their kin",
        "A second node",
        "Settings",
        "A restart that refuses nobody",
    ];
    for heading in &headings {
        assert!(run_on_machines.contains(&heading.as_str()), "{heading}");
    }
    assert_eq!(headings.len(), run_on_machines.len());
}

#[test]
fn a_package_is_refused_that_would_be_none() {
    let build = |arguments: &[&str]| {
        let ran = Command::new(source("deploy/packages")).args(arguments).output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
    };
    let nowhere = Path::new("/nonexistent/imirror").to_str().unwrap();
    for (arguments, code, words) in [
        (&["--binary", nowhere][..], 1, "is no program"),
        (&["--version"], 2, "--version wants a value"),
        (&["--version", "one", "--binary", program().to_str().unwrap()], 2, "the version `one`"),
        (&["snap"], 2, "what is `snap`?"),
    ] {
        let (ended, said) = build(arguments);
        assert!(ended == Some(code) && said.contains(words), "{arguments:?}: {ended:?} {said}");
    }
}
