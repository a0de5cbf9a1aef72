//! A real Squid that wants a name and a password, with everything in a folder of its own: what the machine's own Squid does,
//! if it has one, is not touched.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::node::free_port;

/// Where Debian puts it; not in everybody's path.
const PROGRAM: &str = "/usr/sbin/squid";

/// A running Squid; killed and forgotten when dropped.
pub struct Squid {
    dir: TempDir,
    address: String,
    process: Child,
}

impl Squid {
    /// Permits everything to whoever knows the password, which must not need escaping.
    pub fn start(user: &str, password: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Started by root it becomes another user.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let path = dir.path().display();
        let helper = dir.path().join("passwords");
        let script = format!(
            "#!/bin/sh\nwhile read -r who; do\n[ \"$who\" = '{user} {password}' ] && echo OK || echo ERR\ndone\n"
        );
        std::fs::write(&helper, script).unwrap();
        std::fs::set_permissions(&helper, Permissions::from_mode(0o755)).unwrap();
        let address = free_port().to_string();
        let config = format!(
            "http_port {address}\npid_filename {path}/pid\naccess_log stdio:{path}/access.log squid\n\
             cache_log {path}/cache.log\ncoredump_dir {path}\ncache deny all\nmax_filedescriptors 1024\n\
             shutdown_lifetime 0 seconds\npinger_enable off\nvisible_hostname squid.example.org\n\
             auth_param basic program {path}/passwords\nauth_param basic children 2 startup=1\n\
             auth_param basic realm lab\nacl known proxy_auth REQUIRED\nhttp_access allow known\n\
             http_access deny all\n"
        );
        let file = dir.path().join("squid.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(PROGRAM);
        // A name of its own, too, for what several of them would share.
        command.args(["-N", "-n", &format!("t{}", address.rsplit(':').next().unwrap())]).arg("-f").arg(&file);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("squid is installed");
        let mut squid = Self { dir, address, process };
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(&squid.address).is_err() {
            let ended = squid.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "Squid does not start: {}", squid.file("cache.log"));
            std::thread::yield_now();
        }
        squid
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for this to stand in its access log: requests are written there when they have ended.
    pub fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.file("access.log").contains(text) {
            assert!(Instant::now() < deadline, "{text} is not logged");
            std::thread::yield_now();
        }
    }

    pub fn stop(&mut self) {
        let _ = self.process.kill();
        self.process.wait().unwrap();
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
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
