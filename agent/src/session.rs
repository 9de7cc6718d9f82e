//! The stream to the scheduler: connect, keep, come back.
//!
//! Comes in: the schedulers' addresses, and what the loop wants sent. Goes out: `SessionEvent`s, in order.
//! Between two tries it waits, longer each time and never the same time as its neighbours. This part must never decide
//! what a message means, and never keep a message for a later stream: what must arrive is spooled by the core.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dure_proto::v1::{
    AgentMessage, ExecInput, ExecOutput, SchedulerMessage, agents_client::AgentsClient, jobs_client::JobsClient,
    scheduler_message::Kind,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{
    config::{AgentConfig, ConfigError, is_tls},
    join::{self, IdentityFiles, JoinError, chain},
};

/// Messages to the scheduler that wait to be sent; reports beyond it come again, heartbeats beyond it are dropped.
pub(crate) const MAX_OUTGOING: usize = 256;
/// Messages of the scheduler that wait for the loop.
pub(crate) const MAX_INCOMING: usize = 256;
/// The largest message: a welcome may carry the scripts of every member of the node.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// The first and the longest wait before another try.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// See `BACKOFF_FIRST`.
pub(crate) const BACKOFF_LONGEST: Duration = Duration::from_secs(3);
/// A refusal keeps the agent away no longer than this.
const LONGEST_REFUSAL: Duration = Duration::from_secs(60);
/// The longest wait while it is not long since a scheduler led: another one leads soon.
const BACKOFF_LEADERLESS: Duration = Duration::from_secs(1);
/// See `BACKOFF_LEADERLESS`.
const SOON: Duration = Duration::from_secs(15);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// A leader that is paused, or cut off without a word, is left after twice this.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);
const KEEPALIVE_DEADLINE: Duration = Duration::from_secs(3);
/// The header in which a scheduler that stands by names the leader.
const LEADER_HEADER: &str = "dure-leader";

/// What the loop hears from the stream.
pub(crate) enum SessionEvent {
    /// A stream is being opened: what is put here is sent on it, the hello first, once the scheduler has asked.
    Open(mpsc::Sender<AgentMessage>),
    /// The scheduler's next word.
    Message(Box<SchedulerMessage>),
    /// The stream has ended; another one will be opened.
    Closed(String),
}

/// How a stream ended.
struct Ended {
    why: String,
    welcomed: bool,
    /// The scheduler's own wish.
    retry_after: Option<Duration>,
    /// The scheduler that leads, by the word of one that does not.
    leader: Option<String>,
}

/// The way to the scheduler that was connected to last, for calls beside the stream.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    channel: Channel,
    bearer: Option<MetadataValue<Ascii>>,
}

/// Where the way is looked up.
pub(crate) type Ways = Arc<Mutex<Option<Way>>>;

impl Way {
    /// A request with this agent's proof, where the connection is none.
    fn request<T>(&self, content: T) -> Request<T> {
        let mut request = Request::new(content);
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }

    /// Runs a program beside a member somewhere, on behalf of a member here.
    pub(crate) async fn exec(
        &self,
        inputs: ReceiverStream<ExecInput>,
    ) -> Result<tonic::Streaming<ExecOutput>, tonic::Status> {
        let answer = JobsClient::new(self.channel.clone()).exec(self.request(inputs)).await?;
        Ok(answer.into_inner())
    }
}

/// Where and as whom to connect.
pub(crate) struct Session {
    endpoints: Vec<String>,
    state_dir: PathBuf,
    token: Option<String>,
    events: mpsc::Sender<SessionEvent>,
    hang_ups: mpsc::Receiver<()>,
    ways: Ways,
}

impl Session {
    pub(crate) fn new(
        config: &AgentConfig,
        events: mpsc::Sender<SessionEvent>,
        hang_ups: mpsc::Receiver<()>,
        ways: Ways,
    ) -> Result<Self, ConfigError> {
        let (endpoints, state_dir) = (config.scheduler.clone(), config.state_dir.clone());
        Ok(Self { endpoints, state_dir, token: config.token()?, events, hang_ups, ways })
    }

    /// Keeps a stream for ever; ends when the loop does.
    pub(crate) async fn keep(self, config: AgentConfig) {
        tokio::select! {
            () = self.keep_connected(&config) => {}
            () = join::keep_renewed(&config) => {}
        }
    }

    async fn keep_connected(mut self, config: &AgentConfig) {
        let mut backoff = BACKOFF_FIRST;
        let (mut at, mut led) = (0, Instant::now());
        loop {
            let endpoint = self.endpoints[at].clone();
            let ended = self.once(config, &endpoint).await;
            if ended.welcomed {
                led = Instant::now();
                backoff = BACKOFF_FIRST;
            }
            if self.events.send(SessionEvent::Closed(format!("{endpoint}: {}", ended.why))).await.is_err() {
                return;
            }
            // Only addresses of the configuration are gone to, whoever names another.
            at = next(at, ended.leader.as_deref(), &self.endpoints);
            let wait = jittered(backoff);
            sleep(ended.retry_after.map_or(wait, |asked| asked + wait)).await;
            let longest = if led.elapsed() < SOON { BACKOFF_LEADERLESS } else { BACKOFF_LONGEST };
            backoff = (backoff * 2).min(longest);
        }
    }

    async fn once(&mut self, config: &AgentConfig, endpoint: &str) -> Ended {
        let ended = |why: String| Ended { why, welcomed: false, retry_after: None, leader: None };
        if is_tls(endpoint)
            && let Err(err) = join::join(config).await
        {
            return ended(err.to_string());
        }
        let channel = match self.connect(endpoint).await {
            Ok(channel) => channel,
            Err(why) => return ended(why),
        };
        let (outgoing, queue) = mpsc::channel(MAX_OUTGOING);
        if self.events.send(SessionEvent::Open(outgoing)).await.is_err() {
            return ended("the agent ends".to_owned());
        }
        let token = self.token.as_ref().filter(|_| !is_tls(endpoint));
        let bearer =
            token.map(|token| format!("Bearer {token}").parse().expect("a token is visible ASCII, which was checked"));
        let way = Way { channel: channel.clone(), bearer };
        *self.ways.lock().unwrap_or_else(PoisonError::into_inner) = Some(way.clone());
        let mut client = AgentsClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let request = way.request(ReceiverStream::new(queue));
        // A hang-up that was meant for an earlier stream.
        while self.hang_ups.try_recv().is_ok() {}
        let stream = match timeout(CONNECT_DEADLINE, client.session(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                return Ended { leader: leader_in(&status), ..ended(status.message().to_owned()) };
            }
            Err(_) => return ended(format!("no answer within {CONNECT_DEADLINE:?}")),
        };
        self.pump(stream).await
    }

    async fn pump(&mut self, mut stream: tonic::Streaming<SchedulerMessage>) -> Ended {
        let mut ended = Ended { why: String::new(), welcomed: false, retry_after: None, leader: None };
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                Some(()) = self.hang_ups.recv() => {
                    ended.why = "the agent hung up".to_owned();
                    ended.welcomed = false;
                    return ended;
                }
            };
            match message {
                Ok(Some(SchedulerMessage { kind: Some(Kind::Refusal(refusal)) })) => {
                    ended.why = format!("refused: {}", refusal.reason);
                    ended.retry_after = Some(Duration::from_millis(refusal.retry_after_ms).min(LONGEST_REFUSAL));
                    return ended;
                }
                Ok(Some(message)) => {
                    ended.welcomed |= matches!(message.kind, Some(Kind::Welcome(_)));
                    if self.events.send(SessionEvent::Message(Box::new(message))).await.is_err() {
                        return ended;
                    }
                }
                Ok(None) => {
                    ended.why = "the scheduler closed the stream".to_owned();
                    return ended;
                }
                Err(status) => {
                    ended.why = status.to_string();
                    ended.leader = leader_in(&status);
                    return ended;
                }
            }
        }
    }

    async fn connect(&self, endpoint: &str) -> Result<Channel, String> {
        let mut to = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|err| chain(&err))?
            .connect_timeout(CONNECT_DEADLINE)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_DEADLINE);
        if is_tls(endpoint) {
            let tls = IdentityFiles::under(&self.state_dir).client().map_err(|err: JoinError| err.to_string())?;
            to = to.tls_config(tls).map_err(|err| chain(&err))?;
        }
        to.connect().await.map_err(|err| chain(&err))
    }
}

/// The leader, by the word of a scheduler that does not lead, or leads no more.
fn leader_in(status: &tonic::Status) -> Option<String> {
    status.metadata().get(LEADER_HEADER).and_then(|leader| leader.to_str().ok()).map(str::to_owned)
}

/// Where to go from `at`: to the scheduler that was named, if it is known and not the one that refused; else to the next.
fn next(at: usize, named: Option<&str>, known: &[String]) -> usize {
    let named = named.and_then(|named| known.iter().position(|known| known == named));
    named.filter(|named| *named != at).unwrap_or((at + 1) % known.len())
}

/// Somewhere between half and all of it: neighbours that lost the scheduler together do not come back together.
fn jittered(wait: Duration) -> Duration {
    let mut bytes = [0; 2];
    // Without randomness they come back together, which the scheduler survives.
    let _ = getrandom::fill(&mut bytes);
    wait / 2 + wait.mul_f64(f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX)) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduler_that_names_itself_and_refuses_is_left() {
        let known = ["http://a:1", "http://b:1", "http://c:1"].map(str::to_owned);
        assert_eq!(next(0, Some("http://c:1"), &known), 2);
        assert_eq!(next(0, Some("http://a:1"), &known), 1, "it does not lead, whatever it says");
        assert_eq!(next(2, Some("http://elsewhere:1"), &known), 0, "an address that was not configured");
        assert_eq!(next(2, None, &known), 0);
    }

    #[test]
    fn waits_lie_between_half_and_all_and_differ() {
        let waits: Vec<Duration> = (0..100).map(|_| jittered(BACKOFF_LONGEST)).collect();
        assert!(waits.iter().all(|wait| (BACKOFF_LONGEST / 2..=BACKOFF_LONGEST).contains(wait)));
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }
}
