//! The real program, end to end. One binary, a module for each theme.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::disallowed_methods)] // Other processes are waited for on the real clock.

mod apk;
mod bad_inputs;
mod circles;
mod client_config;
mod clients;
mod decision_tree;
mod discovery;
mod disk;
mod doors;
mod flights;
mod helper;
mod lan;
mod lan_site;
mod liar;
mod lists;
mod memory;
mod metalinks;
mod monitoring;
mod narrow;
mod operations;
mod packages;
mod page;
mod repositories;
mod republished;
mod several_sources;
mod shared_cache;
mod signatures;
mod site;
mod squid;
mod squid_load;
mod store;
mod tidy;
mod top;
mod uplink;
