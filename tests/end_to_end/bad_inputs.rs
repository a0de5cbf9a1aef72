//! Raw requests and upstream lies, each with the safe result (tests/bad_inputs), in a network namespace of its own, on
//! plain and on package paths.

use std::process::Command;

use imirror_tests::node::program;

struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Self {
        let name = format!("imirror-{name}-{}", std::process::id());
        let namespace = Self(name.clone());
        run(Command::new("ip").args(["netns", "add", &name]));
        for words in ["link set lo up", "addr add 169.254.169.254/32 dev lo", "addr add fd00:ec2::254/128 dev lo"] {
            run(namespace.command("ip").args(words.split(' ')));
        }
        namespace
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

fn play(name: &str, arguments: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let config = dir.path().join("imirror.toml");
    let text = format!(
        "name = \"lab1\"\nlisten = \"127.0.0.1:3142\"\nstate_dir = \"{path}/state\"\ncache_dir = \"{path}/cache\"\n\
         cache_size = \"1GiB\"\n[site]\nmdns = false\n[upstream]\nallow = [\"127.0.0.1:8000\"]\n"
    );
    std::fs::write(&config, text).unwrap();
    let namespace = Namespace::new(name);
    let log = std::fs::File::create(dir.path().join("node.log")).unwrap();
    let mut node = namespace
        .command(program().to_str().unwrap())
        .args(["run", "--config"])
        .arg(&config)
        .stderr(log)
        .spawn()
        .unwrap();
    while !namespace.command("sh").args(["-c", "</dev/tcp/127.0.0.1/3142"]).status().unwrap().success()
        && !namespace.command("bash").args(["-c", "exec 3<>/dev/tcp/127.0.0.1/3142"]).status().unwrap().success()
    {}
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/bad_inputs/run.py");
    let played = namespace
        .command("python3")
        .args([script, "--proxy", "127.0.0.1:3142", "--mode", "forward", "--origin-port", "8000"])
        .args(arguments)
        .output()
        .unwrap();
    run(Command::new("kill").arg(node.id().to_string()));
    node.wait().unwrap();
    let log = std::fs::read_to_string(dir.path().join("node.log")).unwrap();
    let (out, errors) = (String::from_utf8_lossy(&played.stdout), String::from_utf8_lossy(&played.stderr));
    assert!(played.status.success(), "{out}\n{errors}\n{log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// `purge-by-anyone` asks for a second answer from the cache, and plain paths are not cached.
#[test]
fn on_plain_paths() {
    play("plain", &["--skip", "purge-by-anyone"]);
}

#[test]
fn on_package_paths() {
    play("package", &["--suffix", "/pool/a_1.0_amd64.deb"]);
}
