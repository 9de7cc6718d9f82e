//! Programs beside members: what a client says goes to the agent, what the agent says comes back.
//!
//! Beside the owner of the cluster, like logs. Who may is asked once per call, before anything is sent; the agent's own
//! window keeps what is under way small, and a client that is gone ends its program.

use dure_proto::v1;
use dure_proto::v1::scheduler_message::Kind;
use tokio::sync::mpsc;

use super::logs::{LogDesk, LogError};
use super::say;

/// Outputs that wait for a client: more than an agent has under way.
const MAX_WAITING_OUTPUTS: usize = 512;
/// Programs that run at once, over all nodes.
const MAX_EXECS: usize = 1024;

/// The way to a program; dropping it ends the program.
pub struct ExecSession {
    order: v1::ExecOrder,
    node: String,
    desk: LogDesk,
}

impl LogDesk {
    /// Starts a program on `node`. `exec_id` of the order is filled in.
    ///
    /// # Errors
    /// `NotConnected` or `TooMany`.
    pub fn exec(
        &self,
        node: &str,
        mut order: v1::ExecOrder,
    ) -> Result<(ExecSession, mpsc::Receiver<v1::ExecOutput>), LogError> {
        order.exec_id = self.next_id();
        let (sender, outputs) = mpsc::channel(MAX_WAITING_OUTPUTS);
        let mut desk = self.lock();
        if desk.execs.len() >= MAX_EXECS {
            return Err(LogError::TooMany);
        }
        let not_connected = || LogError::NotConnected(node.to_owned());
        let (_, outgoing) = desk.agents.get(node).ok_or_else(not_connected)?;
        outgoing.tell(say(Kind::ExecOrder(order.clone()))).map_err(|_| not_connected())?;
        desk.execs.insert(order.exec_id, (node.to_owned(), sender));
        drop(desk);
        let order = v1::ExecOrder { input: None, ..order };
        Ok((ExecSession { order, node: node.to_owned(), desk: self.clone() }, outputs))
    }

    /// A program has said something. A client that is too slow, or gone, is forgotten.
    pub(super) fn exec_arrived(&self, node: &str, data: v1::ExecData) {
        let Some(output) = data.output else { return };
        let mut desk = self.lock();
        // An agent speaks for programs on its own node alone.
        let Some((_, client)) = desk.execs.get(&data.exec_id).filter(|(of, _)| of == node) else { return };
        let is_end = matches!(output.kind, Some(v1::exec_output::Kind::End(_)));
        if client.try_send(output).is_err() || is_end {
            desk.execs.remove(&data.exec_id);
        }
    }
}

impl ExecSession {
    /// Says something to the program; false when its node is gone.
    pub fn say(&self, kind: v1::exec_input::Kind) -> bool {
        let input = Some(v1::ExecInput { kind: Some(kind) });
        let order = v1::ExecOrder { input, ..self.order.clone() };
        let desk = self.desk.lock();
        desk.agents.get(&self.node).is_some_and(|(_, outgoing)| outgoing.tell(say(Kind::ExecOrder(order))).is_ok())
    }
}

impl Drop for ExecSession {
    fn drop(&mut self) {
        let mut desk = self.desk.lock();
        desk.execs.remove(&self.order.exec_id);
        if let Some((_, outgoing)) = desk.agents.get(&self.node) {
            // A session that is over has ended its programs by itself.
            drop(outgoing.tell(say(Kind::ExecOrder(self.order.clone()))));
        }
    }
}
