//! A real Squid, with everything in a folder of its own: what the machine's own Squid does, if it has one, is not touched.

use std::fs::Permissions;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::http::{Answer, Connection, request_over};
use crate::node::{free_port, program};

/// Where Debian puts it; not in everybody's path.
const PROGRAM: &str = "/usr/sbin/squid";

/// A Squid; killed and forgotten when dropped.
pub struct Squid {
    dir: TempDir,
    address: String,
    process: Option<Child>,
}

impl Squid {
    /// Permits everything to whoever knows the password, which must not need escaping.
    pub fn start(user: &str, password: &str) -> Self {
        let mut squid = Self::new();
        let helper = squid.dir().join("passwords");
        let script = format!(
            "#!/bin/sh\nwhile read -r who; do\n[ \"$who\" = '{user} {password}' ] && echo OK || echo ERR\ndone\n"
        );
        std::fs::write(&helper, script).unwrap();
        std::fs::set_permissions(&helper, Permissions::from_mode(0o755)).unwrap();
        squid.configure(&format!(
            "cache deny all\nauth_param basic program {}\nauth_param basic children 2 startup=1\n\
             auth_param basic realm lab\nacl known proxy_auth REQUIRED\nhttp_access allow known\n",
            helper.display()
        ));
        squid.run();
        squid
    }

    /// Permits everything to this machine; with these lines in its configuration.
    pub fn with(lines: &str) -> Self {
        let mut squid = Self::new();
        squid.configure(&format!("{lines}\nhttp_access allow localhost\n"));
        squid.run();
        squid
    }

    /// One that has no configuration yet, and does not run.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Started by root it becomes another user.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        Self { dir, address: free_port().to_string(), process: None }
    }

    /// Writes its configuration: what all of them have, then these lines.
    pub fn configure(&self, lines: &str) {
        let (path, address) = (self.dir.path().display(), &self.address);
        let config = format!(
            "http_port {address}\npid_filename {path}/pid\naccess_log stdio:{path}/access.log squid\n\
             cache_log {path}/cache.log\ncoredump_dir {path}\nmax_filedescriptors 1024\n\
             shutdown_lifetime 0 seconds\npinger_enable off\nvisible_hostname squid.example.org\nnetdb_filename none\n\
             {lines}\nhttp_access deny all\n"
        );
        std::fs::write(self.config(), config).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("squid.conf")
    }

    /// The program with this configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        // A name of its own, too, for what several of them would share.
        command.args(["-n", &format!("t{}", self.address.rsplit(':').next().unwrap())]);
        command.arg("-f").arg(self.config()).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts the process (again) and waits until it serves.
    pub fn run(&mut self) {
        self.process = Some(self.command(&["-N"]).spawn().expect("squid is installed"));
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&self.address).is_err() {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "Squid does not start: {}", self.file("cache.log"));
            std::thread::yield_now();
        }
    }

    /// It accepts none for a moment when it reads its configuration anew.
    fn connect(&self) -> Connection {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match TcpStream::connect(&self.address) {
                Ok(stream) => return Connection::over(stream),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::yield_now();
        }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// GET of a URL through this proxy.
    pub fn get(&self, url: &str) -> Answer {
        let host = url.split('/').nth(2).unwrap();
        request_over(self.connect(), "GET", url, host, &[])
    }

    /// Waits for this to stand in its access log: requests are written there when they have ended.
    pub fn wait_for_log(&self, text: &str) {
        self.wait_for(text, || self.file("access.log").contains(text));
    }

    /// Waits for the line of the last request for a URL, of which there have been so many; returns its words. A rewritten URL is
    /// logged as it was rewritten, with what was asked for at its end.
    pub fn logged(&self, url: &str, times: usize) -> Vec<String> {
        let path = url.trim_start_matches("http://");
        let lines = || -> Vec<String> {
            let log = self.file("access.log");
            let names = |line: &&str| line.split_whitespace().nth(6).is_some_and(|logged| logged.ends_with(path));
            log.lines().filter(names).map(ToOwned::to_owned).collect()
        };
        self.wait_for(url, || lines().len() >= times);
        assert_eq!(lines().len(), times, "{url}\n{}", self.file("access.log"));
        lines().pop().unwrap().split_whitespace().map(ToOwned::to_owned).collect()
    }

    pub fn wait_for(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < deadline, "waited in vain for: {what}");
            std::thread::yield_now();
        }
    }

    /// Processor time in seconds, of it alone and not of its helpers.
    pub fn cpu_seconds(&self) -> f64 {
        let pid = self.process.as_ref().unwrap().id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
        ticks / rustix::param::clock_ticks_per_second() as f64
    }

    /// The program under test, where the user that Squid becomes can run it.
    pub fn imirror(&self) -> String {
        let copy = self.dir.path().join("imirror");
        if !copy.exists() {
            std::fs::copy(program(), &copy).expect("imirror is built");
        }
        copy.display().to_string()
    }

    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            process.wait().unwrap();
            // It would be taken for its own by the next one.
            let _ = std::fs::remove_file(self.dir.path().join("pid"));
        }
    }

    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

impl Default for Squid {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("--- what Squid says ---\n{}{}", self.file("cache.log"), self.file("access.log"));
        }
    }
}
