//! The daemon and its command line. A request enters by a door, is given a name, is looked up, a source is chosen,
//! bytes flow from the source through one pipe to store and client together, and the ledger is written.
//!
//! The modules stand in the order of that journey; a module imports only modules above it. The tidy test compares the order
//! with ARCHITECTURE.md and looks at the imports.

pub mod os;

pub mod fault;

pub mod config;

pub mod ledger;

pub mod classify;

pub mod repos;

pub mod store;

pub mod cluster;

pub mod upstream;

pub mod flight;

pub mod journey;

pub mod helper;

pub mod squid;

pub mod door;

pub mod daemon;

pub mod cli;
