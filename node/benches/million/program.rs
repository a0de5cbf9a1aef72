//! The program itself: how soon it serves and what it holds in memory, empty, full, after a kill, without its index.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{fill, percentile, shuffled, url};

/// Requests for objects chosen at random.
const HITS: usize = 5000;

pub(super) fn measure(folder: &Path, objects: u64) {
    println!("-- an empty node");
    let empty = folder.join("empty");
    let mut node = Node::start(&empty, "cache");
    node.wait_for("200 OK", "/-/health");
    node.tell_memory("idle");
    node.stop();
    std::fs::remove_dir_all(empty).unwrap();

    println!("-- {objects} objects, stopped cleanly before");
    let mut node = Node::start(folder, "cache");
    node.first_hit();
    node.tell_memory("idle");
    node.measure_status();
    node.measure_hits("objects at random", objects);
    node.tell_memory("after that");
    node.measure_verify();
    node.tell_memory("after everything was verified");
    node.stop();

    println!("-- {objects} objects, killed before");
    let mut node = Node::start(folder, "cache");
    node.first_hit();
    node.kill();
    let mut node = Node::start(folder, "cache");
    node.first_hit();
    node.measure_hits("objects at random during the scan", objects);
    node.wait_for_scan();
    node.tell_memory("after the scan");
    node.stop();
}

pub(super) fn measure_lost_index(folder: &Path, objects: u64) {
    println!("-- {objects} objects, the index is lost");
    std::fs::remove_file(folder.join("cache/index.redb")).unwrap();
    let mut node = Node::start(folder, "cache");
    node.wait_for("200 OK", "/-/health");
    node.measure_status();
    node.wait_for_scan();
    node.tell_memory("after the scan");
    node.measure_hits("objects at random", objects);
    node.stop();
}

/// Kibibytes that the kernel names so.
pub(super) fn memory(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

struct Node {
    process: Child,
    address: SocketAddr,
    begun: Instant,
    config: PathBuf,
    log: PathBuf,
}

impl Node {
    fn start(folder: &Path, cache: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (config, log) = (folder.join("imirror.toml"), folder.join("node.log"));
        let path = folder.display();
        let text = format!(
            "name = \"lab1\"\nlisten = \"{address}\"\nstate_dir = \"{path}/state\"\ncache_dir = \"{path}/{cache}\"\n\
             cache_size = \"1TiB\"\n[site]\nmdns = false\n"
        );
        std::fs::write(&config, text).unwrap();
        let begun = Instant::now();
        let process = Command::new(env!("CARGO_BIN_EXE_imirror"))
            .args(["run", "--config"])
            .arg(&config)
            .env_remove("http_proxy")
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { process, address, begun, config, log }
    }

    /// From the start of the process to the last byte of an answer from the store.
    fn first_hit(&self) {
        let answer = self.wait_for("200 OK", &url(1));
        assert!(answer.ends_with(&fill::content(1)), "the object that was stored");
        println!("start to first hit: {:?}", self.begun.elapsed());
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imirror"));
        command.args(words).arg("--config").arg(&self.config);
        command
    }

    fn measure_status(&self) {
        let mut took: Vec<_> = (0..20)
            .map(|_| {
                let begun = Instant::now();
                assert!(self.get("/-/api/status").is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200")));
                begun.elapsed()
            })
            .collect();
        let page = percentile(&mut took, 50);
        let begun = Instant::now();
        assert!(self.command(&["status"]).output().unwrap().status.success());
        println!("status: page {page:?}, `imirror status` {:?}", begun.elapsed());
    }

    fn measure_hits(&self, what: &str, objects: u64) {
        let mut took: Vec<_> = (shuffled(objects).take(HITS))
            .map(|number| {
                let begun = Instant::now();
                let answer = self.get(&url(number)).unwrap();
                assert!(answer.ends_with(&fill::content(number)), "object {number}");
                begun.elapsed()
            })
            .collect();
        let [p50, p99, most] = [50, 99, 100].map(|part| percentile(&mut took, part));
        println!(
            "{HITS} {what}, each on its own connection: half within {p50:?}, 99 of 100 within {p99:?}, all within {most:?}"
        );
    }

    fn measure_verify(&self) {
        let begun = Instant::now();
        let verified = self.command(&["verify", "--json"]).output().unwrap();
        assert!(verified.status.success(), "{verified:?}");
        println!("verify: {:?}: {}", begun.elapsed(), String::from_utf8_lossy(&verified.stdout).trim());
    }

    fn wait_for_scan(&self) {
        while !std::fs::read_to_string(&self.log).unwrap().contains("folder has been read") {
            std::thread::sleep(Duration::from_millis(100));
        }
        let log = std::fs::read_to_string(&self.log).unwrap();
        println!("scan: {}", log.lines().find(|line| line.contains("has been read")).unwrap());
    }

    fn tell_memory(&self, when: &str) {
        // What a start has needed for a moment has gone back.
        std::thread::sleep(Duration::from_secs(3));
        let mib = |name| memory(self.process.id(), name) >> 10;
        let [all, own, peak] = ["VmRSS", "RssAnon", "VmHWM"].map(mib);
        println!("memory {when}: {all} MiB resident, of that {own} MiB anonymous; at most {peak} MiB so far");
    }

    /// Asks until there is an answer of this kind.
    fn wait_for(&self, status: &str, target: &str) -> Vec<u8> {
        loop {
            if let Some(answer) = self.get(target).filter(|answer| answer.starts_with(b"HTTP/1.1")) {
                let head = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
                assert!(head.contains(status), "{head}");
                return answer;
            }
            assert!(self.begun.elapsed() < Duration::from_secs(60), "the node does not start");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn get(&self, target: &str) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let host = target
            .split('/')
            .nth(2)
            .filter(|_| target.starts_with("http"))
            .map_or_else(|| self.address.to_string(), str::to_owned);
        write!(stream, "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(answer)
    }

    fn stop(&mut self) {
        let begun = Instant::now();
        assert!(Command::new("kill").arg(self.process.id().to_string()).status().unwrap().success());
        assert!(self.process.wait().unwrap().success());
        println!("stop: {:?}", begun.elapsed());
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
