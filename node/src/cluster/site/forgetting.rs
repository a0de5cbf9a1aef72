//! What all nodes of the site are to forget, see `imirror_protocol::message::Forget`.

use std::time::Duration;

use imirror_protocol::message::{Cause, What};
use imirror_protocol::{Input, Key, NodeId};
use tokio::sync::oneshot;

use super::{Site, halves, of};
use crate::classify::KeyHash;
use crate::os::entropy;

/// [`Input::Forget`] is answered within 5 s. Should it not be, nobody waits.
const FORGET_PATIENCE: Duration = Duration::from_millis(5_300);

/// What another node wants forgotten.
#[derive(Debug, Clone)]
pub struct Order {
    pub what: What,
    pub cause: Cause,
    /// How long ago it was wanted: what upstream has confirmed since then stays.
    pub age: Duration,
}

/// What other nodes have forgotten.
#[derive(Debug, Default)]
pub struct Forgotten {
    pub objects: u64,
    /// That had any.
    pub nodes: u32,
    /// That have not answered.
    pub silent: Vec<NodeId>,
}

impl Site {
    /// All others are to forget something, which this node has forgotten; what came of it, after some seconds at most.
    pub async fn forget(&self, what: What, cause: Cause) -> Forgotten {
        let (answer, answered) = oneshot::channel();
        let [id, _] = halves(entropy::random_bytes());
        self.0.state().orders.insert(id, answer);
        self.0.tell(Input::Forget { id, what, cause, answer: true });
        // A node that is just leaving answers nothing.
        let answered = tokio::time::timeout(FORGET_PATIENCE, answered).await;
        self.0.state().orders.remove(&id);
        answered.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// All others are to forget what upstream has no more.
    pub fn tell_gone(&self, what: What) {
        let [id, _] = halves(entropy::random_bytes());
        self.0.tell(Input::Forget { id, what, cause: Cause::Gone, answer: false });
    }

    /// See [`imirror_protocol::Cluster::is_forgotten`].
    pub fn is_forgotten(&self, names: &[KeyHash], url: &str, age: Duration) -> Option<Cause> {
        let names: Vec<Key> = names.iter().map(of).collect();
        self.0.state().cluster.is_forgotten(&names, url, age)
    }
}
