//! The one place where the stages stand in order: a request is given a class, is looked up, a decision is made, a source
//! is chosen, and an answer goes back. The rules are pure functions in the files beside this one.
//!
//! Knows no connection and no socket: the door brings a request and takes a reply.

pub mod ask;
pub mod reply;
pub mod segments;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, PRAGMA, VIA};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

pub use reply::{Content, Reply, Stored};
pub use segments::{Segment, Segments};

use crate::classify::{Class, Classified, KeyHash, Url, classify};
use crate::config;
use crate::fault::{Cause, Fault};
use crate::flight::{Flight, Flights, Reader};
use crate::ledger::Ledger;
use crate::os::clock::Clock;
use crate::store::{Entry, Record, Store};
use crate::upstream::{OutBody, Patience, Upstreams};
use ask::{Questions, Resolution};
use freshness::{Decision, Situation};

/// A request that has been given a name.
pub struct Asked {
    pub method: Method,
    /// What upstream is asked for, unless there are other sources.
    pub url: Url,
    /// What it is called here.
    pub key: Url,
    /// All URLs of the same content, in order of preference.
    pub sources: Vec<Url>,
    /// The client's fields as they came.
    pub fields: HeaderMap,
    pub body: Option<OutBody>,
}

/// What the journey is configured with.
#[derive(Debug, Clone)]
pub struct Options {
    /// In `Via` and `Cache-Status`.
    pub name: String,
    pub freshness: config::Freshness,
}

/// The journey of requests through this node. Cheap to clone.
#[derive(Clone)]
pub struct Journey(Arc<Parts>);

struct Parts {
    options: Options,
    via: HeaderValue,
    store: Store,
    flights: Flights,
    upstreams: Upstreams,
    ledger: Arc<Ledger>,
    clock: Clock,
    questions: Questions,
}
