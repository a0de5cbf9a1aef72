//! Beside Squid: what a Squid asks of this node over ICP, its configuration, and the programs that it runs to rewrite URLs and to
//! name what it stores. Decisions are pure; the sockets and pipes are thin.

pub mod icp;
pub mod lines;
pub mod responder;
pub mod rewrite;
pub mod snippet;
pub mod store_id;
pub mod watch;
