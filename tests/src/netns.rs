//! A LAN in a box: hosts in network namespaces, each with an `eth0` at one bridge. Multicast works; cables can be cut, slowed
//! down and mended. Needs root.
//!
//! The bridge is held by a process that ends when its standard input does. It takes everything with it, also what was started
//! on the hosts: nothing is left behind, not even by a test that was killed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Makes the folder of names private, says that it has, waits, and ends what runs on the hosts.
const HOLDER: &str = "
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
echo .
cat > /dev/null
for host in /run/netns/*; do
  for process in $(ip netns pids \"${host##*/}\"); do kill -KILL \"$process\" || true; done
done";

/// `$1` is the number of hosts; IPv4 is left out when `$2` is empty. Duplicate addresses are not looked for, so that
/// addresses can be used at once.
const CABLING: &str = "
no_dad() { ip netns exec \"$1\" sh -c 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad'; }
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up
ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
[ -z \"$2\" ] || ip addr add 10.77.0.254/24 dev br0
ip addr add fd77::fe/64 dev br0 nodad
ip link set br0 up
for i in $(seq 1 \"$1\"); do
  ip netns add \"h$i\"
  no_dad \"h$i\"
  ip link add \"p$i\" type veth peer name eth0 netns \"h$i\"
  ip link set \"p$i\" master br0 up
  ip -n \"h$i\" link set lo up
  ip -n \"h$i\" link set eth0 addrgenmode none
  [ -z \"$2\" ] || ip -n \"h$i\" addr add \"10.77.0.$i/24\" dev eth0
  ip -n \"h$i\" addr add \"fd77::$(printf %x \"$i\")/64\" dev eth0 nodad
  ip -n \"h$i\" addr add \"fe80::$(printf %x \"$i\")/64\" dev eth0 nodad
  ip -n \"h$i\" link set eth0 up
  [ -z \"$2\" ] || ip -n \"h$i\" route add default via 10.77.0.254
  ip -n \"h$i\" -6 route add default via fd77::fe
done
nft -f - <<'END'
table bridge lan {
  set cut { type ifname; }
  set apart { type ifname . ifname; }
  chain in { type filter hook prerouting priority 0; iifname @cut drop; }
  chain out { type filter hook postrouting priority 0; oifname @cut drop; }
  chain between { type filter hook forward priority 0; iifname . oifname @apart drop; }
}
END";

/// Hosts at one bridge, counted from 0.
pub struct Lan {
    holder: Child,
    hosts: Vec<Host>,
    uplink: Host,
}

/// A host; what was begun there goes on after the LAN is gone, but reaches nobody.
#[derive(Debug, Clone)]
pub struct Host {
    /// As this process can open it.
    namespace: PathBuf,
    address: IpAddr,
}

impl Lan {
    /// `n` hosts with the addresses `10.77.0.1`, `fd77::1`, `fe80::1` and so on.
    pub fn new(n: usize) -> Self {
        Self::cabled(n, true)
    }

    /// `n` hosts without IPv4.
    pub fn ipv6_only(n: usize) -> Self {
        Self::cabled(n, false)
    }

    fn cabled(n: usize, ipv4: bool) -> Self {
        assert!(rustix::process::getuid().is_root(), "network namespaces need root");
        assert!((1..=200).contains(&n));
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-ec", HOLDER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is installed");
        holder.stdout.as_mut().unwrap().read_exact(&mut [0]).expect("a network namespace can be made");
        let process = PathBuf::from(format!("/proc/{}", holder.id()));
        let address = |number: u8| match ipv4 {
            true => IpAddr::from(Ipv4Addr::new(10, 77, 0, number)),
            false => IpAddr::from(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into())),
        };
        let host = |number: usize| Host {
            namespace: process.join(format!("root/run/netns/h{number}")),
            address: address(u8::try_from(number).unwrap()),
        };
        let uplink = Host { namespace: process.join("ns/net"), address: address(254) };
        let lan = Self { hosts: (1..=n).map(host).collect(), uplink, holder };
        lan.shell(CABLING, &[&n.to_string(), if ipv4 { "4" } else { "" }]);
        lan
    }

    pub fn host(&self, i: usize) -> &Host {
        &self.hosts[i]
    }

    /// Where the world begins: it is at the bridge itself, and no cut between hosts concerns it.
    pub fn uplink(&self) -> &Host {
        &self.uplink
    }

    /// A command that runs on a host.
    pub fn run_in(&self, i: usize, program: impl AsRef<OsStr>) -> Command {
        self.hosts[i].command(program)
    }

    /// Both directions get no faster than this, as `tc` writes it: `10mbit`.
    pub fn limit(&self, i: usize, rate: &str) {
        let line = "tc qdisc replace dev \"p$1\" root tbf rate \"$2\" burst 64kb latency 200ms
            tc -n \"h$1\" qdisc replace dev eth0 root tbf rate \"$2\" burst 64kb latency 200ms";
        self.shell(line, &[&number(i), rate]);
    }

    /// Nothing comes or goes any more, and nobody is told.
    pub fn cut(&self, i: usize) {
        self.shell("nft add element bridge lan cut \"{ p$1 }\"", &[&number(i)]);
    }

    /// Takes back [`Self::cut`].
    pub fn heal(&self, i: usize) {
        self.shell("nft delete element bridge lan cut \"{ p$1 }\"", &[&number(i)]);
    }

    /// None of these hosts and none of those reach each other any more.
    pub fn part(&self, these: &[usize], those: &[usize]) {
        for (a, b) in these.iter().flat_map(|a| those.iter().map(move |b| (number(*a), number(*b)))) {
            self.shell("nft add element bridge lan apart \"{ p$1 . p$2, p$2 . p$1 }\"", &[&a, &b]);
        }
    }

    /// Takes back every [`Self::part`].
    pub fn unite(&self) {
        self.shell("nft flush set bridge lan apart", &[]);
    }

    /// Bytes that have come over this host's cable from it, those of all heads among them.
    pub fn sent_by(&self, i: usize) -> u64 {
        self.counted(i).0
    }

    /// The same, and packets.
    pub fn counted(&self, i: usize) -> (u64, u64) {
        let shown = self.shell("ip -json -stats link show dev \"p$1\"", &[&number(i)]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let received = &shown[0]["stats64"]["rx"];
        (received["bytes"].as_u64().unwrap(), received["packets"].as_u64().unwrap())
    }

    /// Runs shell where the bridge is and the hosts have names: `h1` with `eth0`, whose other end is `p1`, and so on. What it said.
    pub fn shell(&self, lines: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.holder.id().to_string(), "--", "sh", "-ec", lines, "sh"]);
        let ran = command.args(arguments).output().unwrap();
        assert!(ran.status.success(), "{lines} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }
}

/// As the names of interfaces have it.
fn number(i: usize) -> String {
    (i + 1).to_string()
}

impl Drop for Lan {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

impl Host {
    /// At which other hosts reach this one: IPv4 if the LAN has it.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its network, as this process can open it.
    pub(crate) fn namespace(&self) -> &Path {
        &self.namespace
    }

    /// A command that runs on this host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let mut option = std::ffi::OsString::from("--net=");
        option.push(&self.namespace);
        command.arg(option).arg("--").arg(program);
        command
    }

    /// Does some work on a thread of this host. A socket that is made there stays there, whoever uses it later.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let on_host = || {
            let namespace = File::open(&self.namespace).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(on_host).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Listens at this host's address, on a port of the system's choice.
    pub fn listen(&self) -> TcpListener {
        self.within(|| TcpListener::bind((self.address, 0)).unwrap())
    }

    /// Connects from this host.
    pub fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(30)))
    }
}
