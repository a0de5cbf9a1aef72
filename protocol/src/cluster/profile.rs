//! What people want to know of a node: its name, and where it serves clients.

use alloc::string::String;
use core::net::SocketAddr;

use crate::message::NODE_NAME_MAX;
use crate::wire::FewBytes;

/// What a node tells of itself for people and their clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// At most [`NODE_NAME_MAX`] bytes, without control characters: it is shown on terminals and pages. Empty: unknown.
    pub(super) name: String,
    /// Zero: unknown.
    pub(super) client_port: u16,
}

impl Profile {
    /// Of what a peer sent, which may be anything.
    pub(super) fn told(name: &[u8], client_port: u16) -> Self {
        let mut clean = String::new();
        for letter in String::from_utf8_lossy(name).chars().filter(|letter| !letter.is_control()) {
            if clean.len() + letter.len_utf8() > NODE_NAME_MAX {
                break;
            }
            clean.push(letter);
        }
        Self { name: clean, client_port }
    }

    /// The name as it is sent.
    pub(super) fn wire_name(&self) -> FewBytes<NODE_NAME_MAX> {
        FewBytes::of(self.name.as_bytes())
    }

    /// Where clients are served, of a node that peers reach at `address`: both use the same port unless it says otherwise.
    pub(super) fn client_address(&self, mut address: SocketAddr) -> SocketAddr {
        if self.client_port != 0 {
            address.set_port(self.client_port);
        }
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_write_to_a_terminal_or_grow() {
        assert_eq!(Profile::told(b"lab1\x1b[2J\n", 0).name, "lab1[2J");
        assert_eq!(Profile::told(&[0xff; 64], 0).name.len(), 63, "three bytes for each that is no letter");
    }

    #[test]
    fn clients_go_to_the_port_that_was_told() {
        let address: SocketAddr = "192.0.2.1:3142".parse().unwrap();
        assert_eq!(Profile::told(b"", 0).client_address(address).port(), 3142);
        assert_eq!(Profile::told(b"", 8080).client_address(address).port(), 8080);
    }
}
