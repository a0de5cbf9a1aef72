//! Where the parts of the state machine put what they want done, in order.

use alloc::collections::VecDeque;

use crate::identity::NodeId;
use crate::message::{Lane, Message};
use crate::output::{Output, Why};

/// Outputs not yet polled.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Output>,
}

impl Outbox {
    pub(crate) fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        let lane = message.lane();
        self.push(Output::Send { to, frame: message.encode(), lane });
    }

    /// For what would be sent as a datagram otherwise, and must not be lost.
    pub(crate) fn send_on_stream(&mut self, to: NodeId, message: Message) {
        self.push(Output::Send { to, frame: message.encode(), lane: Lane::Stream });
    }

    pub(crate) fn misbehaved(&mut self, peer: NodeId, why: Why) {
        self.push(Output::Misbehaved { peer, why });
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }
}

#[cfg(test)]
impl Outbox {
    /// All messages that were sent, decoded; other outputs are dropped.
    pub(crate) fn messages(&mut self) -> alloc::vec::Vec<(NodeId, Message)> {
        let decoded = |output| match output {
            Output::Send { to, frame, .. } => Some((to, Message::decode(&frame).unwrap().0.unwrap())),
            _ => None,
        };
        self.queue.drain(..).filter_map(decoded).collect()
    }
}
