//! The gRPC stream of one node: pumps what the agent says to the owner of the cluster, and the answers back.
//!
//! A node speaks for itself alone: the name in its Hello must be the one of its certificate or token.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use dure_proto::v1;
use dure_proto::v1::agent_message::Kind;
use dure_proto::v1::agents_server::Agents;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::FromAgent;
use super::logs::LogDesk;
use crate::auth;
use crate::auth::token::Checked;
use crate::grpc::join::Joiner;
use crate::grpc::seat::LEADER_HEADER;
use crate::leadership::Seen;

/// Messages that wait for one agent; one that lets more pile up is cut off and comes back.
const MAX_OUTGOING: usize = 8192;
/// When the owner of the cluster is gone, sessions are kept open for so long at least, and at most: whoever leads next answers
/// callers first, and agents come back one after the other to where they are sent. Less than what the last answers have.
const HELD: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(450));
/// How long an agent may take for its Hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// The way to one agent. Cheap to clone.
#[derive(Clone)]
pub struct Outgoing {
    sender: mpsc::Sender<v1::SchedulerMessage>,
    cut: Arc<Mutex<Option<oneshot::Sender<Farewell>>>>,
}

/// The end of a session.
#[derive(Debug)]
struct Farewell {
    /// What the agent is told in place of all that still waits.
    last: Option<v1::SchedulerMessage>,
    why: Status,
}

/// The agent does not take its messages in.
#[derive(Debug, PartialEq, Eq)]
pub struct NotRead;

impl Outgoing {
    /// A way, and the stream that it feeds.
    pub fn new() -> (Self, SessionStream) {
        let (sender, messages) = mpsc::channel(MAX_OUTGOING);
        let (cut, is_cut) = oneshot::channel();
        let stream = SessionStream { messages, is_cut, over: None, is_over: false };
        (Self { sender, cut: Arc::new(Mutex::new(Some(cut))) }, stream)
    }

    /// Says something. A session that is over hears nothing, and that is no error: its agent will be told anew.
    ///
    /// # Errors
    /// `NotRead` when too much waits already.
    pub fn tell(&self, message: v1::SchedulerMessage) -> Result<(), NotRead> {
        match self.sender.try_send(message) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(NotRead),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Ends the session.
    pub fn cut(&self, why: Status) {
        self.end(Farewell { last: None, why });
    }

    /// Ends the session with a last word, which says when to come back.
    pub fn refuse(&self, refusal: v1::Refusal) {
        let last = Some(super::say(v1::scheduler_message::Kind::Refusal(refusal)));
        self.end(Farewell { last, why: Status::failed_precondition("refused: see the Refusal") });
    }

    fn end(&self, farewell: Farewell) {
        if let Some(cut) = self.cut.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(cut.send(farewell)); // a stream that is gone needs no end
        }
    }
}

/// What goes to the agent, until the session is cut.
pub struct SessionStream {
    messages: mpsc::Receiver<v1::SchedulerMessage>,
    is_cut: oneshot::Receiver<Farewell>,
    /// Said after the last word.
    over: Option<Status>,
    is_over: bool,
}

/// What stands next on a stream.
#[derive(Debug)]
pub enum Next {
    /// Nothing yet.
    Nothing,
    /// This.
    Message(Box<v1::SchedulerMessage>),
    /// Its end.
    Over(Status),
}

impl SessionStream {
    /// Takes what stands next, without waiting.
    pub fn try_next(&mut self) -> Next {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match Pin::new(self).poll_next(&mut context) {
            Poll::Pending => Next::Nothing,
            Poll::Ready(Some(Ok(message))) => Next::Message(Box::new(message)),
            Poll::Ready(Some(Err(why))) => Next::Over(why),
            Poll::Ready(None) => Next::Over(Status::unavailable("the session is over; connect again")),
        }
    }
}

impl Stream for SessionStream {
    type Item = Result<v1::SchedulerMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(why) = self.over.take() {
            return Poll::Ready(Some(Err(why)));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        if !self.is_cut.is_terminated()
            && let Poll::Ready(Ok(Farewell { last, why })) = Pin::new(&mut self.is_cut).poll(context)
        {
            self.messages.close();
            self.is_over = true;
            return Poll::Ready(Some(match last {
                Some(last) => {
                    self.over = Some(why);
                    Ok(last)
                }
                None => Err(why),
            }));
        }
        self.messages.poll_recv(context).map(|message| message.map(Ok))
    }
}

/// The Agents service.
#[derive(Clone)]
pub struct AgentService {
    /// To the owner of the cluster.
    pub messages: mpsc::Sender<FromAgent>,
    /// Where logs are read.
    pub desk: LogDesk,
    /// Gives nodes their certificates.
    pub joiner: Arc<Joiner>,
    /// Numbers the sessions.
    pub next_session: Arc<AtomicU64>,
    /// Who leads, among several schedulers: where agents are sent when this one does so no more.
    pub leader: Option<Seen>,
}

#[tonic::async_trait]
impl Agents for AgentService {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        self.joiner.join(request).await
    }

    type SessionStream = SessionStream;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let identity = auth::node_of(&request)?;
        let credential = auth::of(&request)?.credential;
        let mut incoming = request.into_inner();
        let (outgoing, stream) = Outgoing::new();
        let number = self.next_session.fetch_add(1, Ordering::Relaxed) + 1;
        challenge(&outgoing, number);
        let service = self.clone();
        // The answer's headers must leave before the agent's first message can be waited for.
        tokio::spawn(async move {
            if let Err(why) = service.pump(number, &identity, credential, &mut incoming, &outgoing).await {
                outgoing.cut(why);
            }
        });
        Ok(Response::new(stream))
    }
}

impl AgentService {
    async fn pump(
        &self,
        session: u64,
        identity: &auth::NodeName,
        credential: auth::Credential,
        incoming: &mut Streaming<v1::AgentMessage>,
        outgoing: &Outgoing,
    ) -> Result<(), Status> {
        let hello = match tokio::time::timeout(HELLO_DEADLINE, incoming.message()).await {
            Ok(Ok(Some(v1::AgentMessage { kind: Some(Kind::Hello(hello)) }))) => hello,
            Ok(Ok(_)) => return Err(Status::invalid_argument("the first message of a session is a Hello")),
            Ok(Err(status)) => return Err(status),
            Err(_) => return Err(Status::deadline_exceeded("no Hello came within 10 seconds")),
        };
        if !identity.allows(&hello.node) {
            let why = format!(
                "this credential does not speak for node {:?}; join the node with a token of its own",
                hello.node
            );
            return Err(Status::permission_denied(why));
        }
        let node = hello.node.clone();
        self.desk.opened(&node, session, outgoing.clone());
        let opened = FromAgent::Opened { session, hello: Box::new(hello), outgoing: outgoing.clone() };
        let mut going = self.messages.send(opened).await.is_ok();
        let mut ended = Status::unavailable("the session is over; connect again");
        let mut checked = Checked::default();
        while going {
            let Ok(Some(message)) = incoming.message().await else { break };
            if let Err(revoked) = self.joiner.check(&node, credential, &mut checked) {
                ended = revoked;
                break;
            }
            going = self.pass_on(message, session, &node).await;
        }
        self.desk.closed(&node, session);
        if !going {
            tokio::time::sleep(held()).await;
            ended = self.sent_on();
        }
        // The owner may be gone already; then there is nobody to tell.
        drop(self.messages.send(FromAgent::Closed { session, node }).await);
        outgoing.cut(ended);
        Ok(())
    }

    /// The end of a session with a scheduler that leads no more.
    fn sent_on(&self) -> Status {
        let mut status = Status::unavailable("this scheduler leads no more; connect again");
        let leader = self.leader.as_ref().map(|seen| seen.borrow().address.clone());
        if let Some(leader) = leader.filter(|leader| !leader.is_empty()).and_then(|leader| leader.parse().ok()) {
            status.metadata_mut().insert(LEADER_HEADER, leader);
        }
        status
    }

    /// False when the owner of the cluster is gone.
    async fn pass_on(&self, message: v1::AgentMessage, session: u64, node: &str) -> bool {
        let node = node.to_owned();
        let message = match message.kind {
            Some(Kind::Heartbeat(heartbeat)) => FromAgent::Heartbeat { session, node, heartbeat: Box::new(heartbeat) },
            Some(Kind::Report(report)) => FromAgent::Reported { session, node, report: Box::new(report) },
            Some(Kind::LogData(data)) => {
                self.desk.arrived(data);
                return true;
            }
            Some(Kind::ExecData(data)) => {
                self.desk.exec_arrived(&node, data);
                return true;
            }
            // A second Hello, or a kind that this version does not know.
            Some(Kind::Hello(_)) | None => return true,
        };
        self.messages.send(message).await.is_ok()
    }
}

/// Asks whoever has opened a stream for its Hello.
pub fn challenge(outgoing: &Outgoing, session: u64) {
    let asked = outgoing.tell(super::say(v1::scheduler_message::Kind::Challenge(v1::Challenge { session })));
    debug_assert_eq!(asked, Ok(()), "nothing waits in a stream that has just begun");
}

/// Somewhere between the two times of `HELD`.
fn held() -> Duration {
    let mut bytes = [0; 2];
    // Without randomness they come back together, which the scheduler survives.
    let _ = getrandom::fill(&mut bytes);
    HELD.0 + (HELD.1 - HELD.0).mul_f64(f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_agent_hears_when_to_come_back_before_the_stream_ends() {
        let (outgoing, mut stream) = Outgoing::new();
        outgoing.tell(v1::SchedulerMessage::default()).expect("there is room");
        outgoing.refuse(v1::Refusal { reason: "no".to_owned(), retry_after_ms: 7 });
        let Next::Message(message) = stream.try_next() else { panic!("the last word comes first") };
        let Some(v1::scheduler_message::Kind::Refusal(refusal)) = message.kind else { panic!("{message:?}") };
        assert_eq!((refusal.reason.as_str(), refusal.retry_after_ms), ("no", 7));
        assert!(matches!(stream.try_next(), Next::Over(why) if why.code() == tonic::Code::FailedPrecondition));
        assert!(matches!(stream.try_next(), Next::Over(_)), "it stays over");
    }

    #[test]
    fn a_stream_without_a_word_waits() {
        let (outgoing, mut stream) = Outgoing::new();
        assert!(matches!(stream.try_next(), Next::Nothing));
        outgoing.tell(v1::SchedulerMessage::default()).expect("there is room");
        assert!(matches!(stream.try_next(), Next::Message(_)));
        drop(outgoing);
        assert!(matches!(stream.try_next(), Next::Over(_)));
    }
}
