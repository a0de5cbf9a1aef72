//! Many nodes in virtual time, on the protocol's code: the same state machine that runs in the daemon, with a net, stores and clients
//! that are made up. The same seed gives the same run to the last byte.
#![warn(missing_docs)]

pub mod checks;
pub mod data;
pub mod report;
pub mod rng;
pub mod scenarios;
pub mod world;

pub use world::{Laws, World};
