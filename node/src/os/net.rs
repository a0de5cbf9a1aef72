//! Listening sockets and the addresses of this machine.

use std::fs::Permissions;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::Mode;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// A TCP listener; one on `[::]` takes IPv4 too. Where the machine has no IPv6, `[::]` means all of IPv4.
pub fn listen_tcp(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let listen = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        tokio::net::TcpListener::from_std(socket.into())
    };
    match listen(address) {
        Err(e) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&e) => {
            listen(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), address.port()))
        }
        other => other,
    }
}

/// The listener for TCP that the service manager has made for this process (sd_listen_fds(3)), if it has.
///
/// To be asked once, and while the process has one thread: it takes the variables that say so out of the environment.
///
/// # Errors
/// What was handed over is something else, or more than one.
pub fn inherited_tcp() -> io::Result<Option<std::net::TcpListener>> {
    let mut handed = listenfd::ListenFd::from_env();
    if handed.len() > 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} sockets where one is of use", handed.len()),
        ));
    }
    let Some(listener) = handed.take_tcp_listener(0)? else { return Ok(None) };
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// A listening socket in the file system that nobody but this user can ever connect to, whatever the umask.
pub fn listen_unix(path: &Path) -> io::Result<tokio::net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The kernel gives the file the mode of the socket, less the umask.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(64)?;
    socket.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(socket.into())
}

/// The address from which this machine would reach others; asks the routing table, sends nothing.
pub fn own_address() -> Option<IpAddr> {
    let towards = |local: &str, remote: &str| {
        let socket = std::net::UdpSocket::bind(local).ok()?;
        socket.connect(remote).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    // Addresses that are set aside for documentation (RFC 5737, RFC 3849).
    towards("0.0.0.0:0", "192.0.2.1:9").or_else(|| towards("[::]:0", "[2001:db8::1]:9"))
}

/// Is it an address of this machine? It is when a socket can be bound to it.
pub fn is_local(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// Lets this process open as many files as it may; returns how many.
pub fn raise_file_limit() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A UDP socket, and the bytes of buffer in each direction that the kernel gave of those wished for. One on `[::]` takes IPv4, too;
/// where the machine has no IPv6, `[::]` means all of IPv4.
pub fn bind_udp(address: SocketAddr, buffer: usize) -> io::Result<(std::net::UdpSocket, usize)> {
    let bind = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_recv_buffer_size(buffer)?;
        socket.set_send_buffer_size(buffer)?;
        // The kernel doubles what it gives, for its own bookkeeping.
        let given = socket.recv_buffer_size()?.min(socket.send_buffer_size()?) / 2;
        socket.bind(&address.into())?;
        Ok((socket.into(), given))
    };
    match bind(address) {
        Err(e) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&e) => {
            bind(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), address.port()))
        }
        other => other,
    }
}
