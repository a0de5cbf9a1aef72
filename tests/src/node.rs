//! The real program as a process, with folders of its own.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, sockopt};
use tempfile::TempDir;

use crate::http::{Answer, Connection, request_over};
use crate::namespace::Namespace;
use crate::netns::Host;

/// A running node; killed and forgotten when dropped.
pub struct Node {
    dir: TempDir,
    address: SocketAddr,
    process: Option<Child>,
    /// Added to the environment of the process and of commands.
    environment: Vec<(&'static str, String)>,
    namespace: Option<Namespace>,
    host: Option<Host>,
    /// Programs that run the program.
    wrapper: Vec<String>,
}

impl Node {
    /// Starts a node that may reach the given addresses; `more` is added to its configuration (tables only).
    pub fn start(allow: &[&str], more: &str) -> Self {
        Self::start_at(free_port(), allow, more)
    }

    pub fn start_at(address: SocketAddr, allow: &[&str], more: &str) -> Self {
        let mut node = Self::new(address, allow, more);
        node.run();
        node
    }

    /// A node that is not started yet.
    pub fn new(address: SocketAddr, allow: &[&str], more: &str) -> Self {
        Self::configured(address, |folders| {
            format!(
                "name = \"lab1\"\nlisten = \"{address}\"\n{folders}[site]\nmdns = false\n\
                 [upstream]\nallow = {allow:?}\n{more}"
            )
        })
    }

    /// A node on a host of a [`crate::netns::Lan`], not started yet. All but its name is as it is without a configuration;
    /// `more` is added to that (tables only).
    pub fn on(host: &Host, name: &str, more: &str) -> Self {
        let mut node = Self::configured(SocketAddr::new(host.address(), 3142), |folders| {
            format!("name = \"{name}\"\n{folders}{more}")
        });
        node.host = Some(host.clone());
        node
    }

    fn configured(address: SocketAddr, config: impl FnOnce(&str) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let folders = format!("state_dir = \"{path}/state\"\ncache_dir = \"{path}/cache\"\ncache_size = \"1GiB\"\n");
        std::fs::write(dir.path().join("imirror.toml"), config(&folders)).unwrap();
        Self { dir, address, process: None, environment: Vec::new(), namespace: None, host: None, wrapper: Vec::new() }
    }

    pub fn with_variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// What is mounted in the namespace is seen by the node and by its commands alone.
    pub fn inside(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// The program is run by another one, such as `env`.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    pub fn namespace(&self) -> &Namespace {
        self.namespace.as_ref().expect("a namespace")
    }

    /// Starts the process (again) and waits until it serves.
    pub fn run(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.dir.path().join("node.log")).unwrap();
        let child = self.command(&["run"]).stdout(Stdio::null()).stderr(log).spawn().expect("imirror is built");
        self.process = Some(child);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if self.connect().is_ok() {
                // Accepted by the kernel; served when there is an answer (403 where loopback is not permitted).
                self.ask("GET", "/-/health", &self.address(), &[]);
                return;
            }
            let ended = self.process.as_mut().and_then(|p| p.try_wait().unwrap());
            assert!(ended.is_none() && Instant::now() < deadline, "the node does not start: {}", self.log());
            std::thread::yield_now();
        }
    }

    /// A verb of the command line for this node.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut words = self.wrapper.iter().map(OsString::from).chain([program().into_os_string()]);
        let first = words.next().unwrap();
        let mut command = match (&self.namespace, &self.host) {
            (Some(namespace), _) => namespace.command(first),
            (None, Some(host)) => host.command(first),
            (None, None) => Command::new(first),
        };
        command.args(words);
        command.args(arguments).arg("--config").arg(self.dir.path().join("imirror.toml"));
        for name in ["http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Its host has another address now.
    pub fn moved_to(&mut self, ip: std::net::IpAddr) {
        self.address.set_ip(ip);
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// What `/proc/PID/status` has under this name, in MiB.
    pub fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the node runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect(name);
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("node.log")).unwrap_or_default()
    }

    /// GET of a URL through the proxy.
    pub fn get(&self, url: &str) -> Answer {
        self.get_with(url, &[])
    }

    pub fn get_with(&self, url: &str, fields: &[&str]) -> Answer {
        let host = url.split('/').nth(2).unwrap();
        self.ask("GET", url, host, fields)
    }

    /// Any request, from the host where the node is.
    pub fn ask(&self, method: &str, target: &str, host: &str, fields: &[&str]) -> Answer {
        let stream = self.connect().expect("the node accepts connections");
        request_over(Connection::over(stream), method, target, host, fields)
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        match &self.host {
            Some(host) => host.connect(self.address),
            None => TcpStream::connect(self.address),
        }
    }

    /// As a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// As an operator would; waits for the end.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let ok = Command::new("kill").arg(process.id().to_string()).status().unwrap().success();
            assert!(ok && process.wait().unwrap().success(), "{}", self.log());
        }
    }

    /// What `status --json` says.
    pub fn status(&self) -> serde_json::Value {
        let shown = self.command(&["status", "--json"]).output().unwrap();
        serde_json::from_slice(&shown.stdout).unwrap_or_else(|_| panic!("{shown:?}"))
    }

    /// Waits until the index names so many objects.
    pub fn wait_for_objects(&self, objects: u64) {
        self.wait_for(|| self.status()["cache"]["objects"] == objects);
    }

    /// Waits until the log has these words.
    pub fn wait_for_words(&self, words: &str) {
        self.wait_for(|| self.log().contains(words));
    }

    /// Waits until something is so.
    pub fn wait_for(&self, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < deadline, "waited for in vain: {}", self.log());
            std::thread::yield_now();
        }
    }

    /// Tells the process to stop; the caller looks whether it does.
    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").arg(signal).arg(self.pid().to_string()).status().unwrap().success());
    }

    /// Waits for the end of a process that was told to stop; its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        self.process.take().unwrap().wait().unwrap().code()
    }

    /// Files of stored contents.
    pub fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let folder = self.dir.path().join("cache/objects");
        let folder = self.namespace.as_ref().map_or(folder.clone(), |namespace| namespace.path(&folder));
        for folder in std::fs::read_dir(folder).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_none() {
                    found.push(path);
                }
            }
        }
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the node's log ---\n{}", self.log());
        }
    }
}

/// The program that the tests were built beside, or the one that `IMIRROR_BIN` names.
pub fn program() -> PathBuf {
    std::env::var_os("IMIRROR_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let me = std::env::current_exe().unwrap();
        me.ancestors().nth(2).unwrap().join("imirror")
    })
}

/// An address on loopback that nobody uses, and that no other program gets by chance as long as this one runs. It is held by a socket that
/// does not listen: connections are refused, whoever wants this very port can have it (`SO_REUSEADDR`, socket(7)), and to those who
/// take any port the kernel gives another one.
pub fn free_port() -> SocketAddr {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
    std::mem::forget(socket);
    address
}

/// Changes a byte of a file in place, as a failing disk would.
pub fn flip_byte(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file: File = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_free_port_is_nobodys_until_somebody_asks_for_it() {
        let address = free_port();
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        for _ in 0..2 {
            drop(TcpListener::bind(address).unwrap());
        }
        assert_ne!(free_port(), address);
    }
}
