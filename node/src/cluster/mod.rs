//! The other nodes of the site. Contains no rule: what is decided is decided by `imirror_protocol`.

pub mod description;
pub mod discovery;
pub mod endpoint;
pub mod identity;
pub mod links;
mod noise;
pub mod site;
pub mod source;
pub mod transfer;
