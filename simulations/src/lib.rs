//! Many nodes in virtual time, on the protocol's code. Nothing is here yet: it comes with the protocol.
