//! The other nodes of the site. Contains no rule: what is decided is decided by `imirror_protocol`.

pub mod discovery;
pub mod transfer;
