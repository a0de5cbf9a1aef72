//! The QUIC endpoint of this node: one UDP socket for connections in both directions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, Runtime, ServerConfig, TokioRuntime, TransportConfig,
    VarInt,
};

use super::identity::Identity;
use super::noise::{Ids, Noise, Quiet};
use crate::os::net;

/// Streams that a peer may have open for requests: its transfers from this node. Each costs memory also while it is closed.
const REQUEST_STREAMS: u32 = 32;

/// The control stream, and some that later versions may want.
const OTHER_STREAMS: u32 = 16;

/// Bytes that a peer may send on one stream and this node has not read yet. A LAN of 10 Gbit/s has 1.2 MB under way in a millisecond.
const STREAM_WINDOW: u32 = 4 << 20;

/// The same for all streams of one peer.
const PEER_WINDOW: u32 = 16 << 20;

/// Of the socket, in each direction: with the kernel's default a hundred nodes that meet at once lose half of their packets.
const SOCKET_BUFFER: usize = 4 << 20;

/// The greatest packet, in bytes of UDP payload, that is tried for; a network that takes only 1,500 gets what it takes. Ten go to the
/// kernel at once, which sends 65,507 bytes at most.
const PACKET_MAX: u16 = 6_500;

/// Handshakes of others under way at the same time.
const INCOMING_MAX: usize = 256;

/// Opens the endpoint at this address, of which `[::]` means IPv4 as well. What comes there and is of no node is counted in `noise`.
///
/// # Errors
/// The port is taken, or the kernel has no UDP.
pub fn open(identity: &Identity, address: SocketAddr, noise: &Arc<Noise>) -> anyhow::Result<Endpoint> {
    let (socket, buffer) = net::bind_udp(address, SOCKET_BUFFER).with_context(|| {
        format!(
            "cannot use UDP at {address}: is another program there? Nodes talk to each other on the port of `listen`"
        )
    })?;
    if buffer < SOCKET_BUFFER {
        tracing::info!(
            "the kernel gives UDP sockets {} KiB of buffer only, transfers between nodes are faster with more: sysctl -w net.core.rmem_max={SOCKET_BUFFER} net.core.wmem_max={SOCKET_BUFFER}",
            buffer >> 10
        );
    }
    let transport = Arc::new(transport());
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(identity.server.clone())?));
    server.transport_config(transport.clone());
    server.max_incoming(INCOMING_MAX).incoming_buffer_size(16 << 10).incoming_buffer_size_total(2 << 20);
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(identity.client.clone())?));
    client.transport_config(transport);
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(PACKET_MAX)?;
    let ids = Ids::of(identity);
    // A bit that may be either way would tell less of what is no packet of QUIC (RFC 9287).
    config.cid_generator(move || Box::new(ids)).grease_quic_bit(false);
    let socket = TokioRuntime.wrap_udp_socket(socket)?;
    let socket = Arc::new(Quiet { socket, ids, noise: noise.clone() });
    let mut endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, Arc::new(TokioRuntime))?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

fn transport() -> TransportConfig {
    let mut packets = MtuDiscoveryConfig::default();
    packets.upper_bound(PACKET_MAX);
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(packets))
        .max_concurrent_bidi_streams(REQUEST_STREAMS.into())
        .max_concurrent_uni_streams(OTHER_STREAMS.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(PEER_WINDOW.into())
        .send_window(u64::from(PEER_WINDOW))
        // Who is alive is for the protocol to find out; this is for memory, and for firewalls that forget.
        .keep_alive_interval(Some(Duration::from_secs(5)))
        .max_idle_timeout(Some(VarInt::from_u32(15_000).into()))
        // A packet to a node that is not up yet is sent again soon.
        .initial_rtt(Duration::from_millis(50));
    transport
}

/// The address in the family that it really is of: on a socket for both IPv4 addresses look like IPv6.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(six) if six.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(address.ip().to_canonical(), address.port())
        }
        _ => address,
    }
}
