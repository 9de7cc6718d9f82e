//! Steps of batch scripts: `srun` on the first member runs programs beside the others.
//!
//! Comes in: connections to a socket that every member's user can reach, each of one program: a frame that says what to
//! start (`ExecStart` with its step), then its inputs. Goes out: the program's outputs and its end, as frames. A frame is
//! its length in four bytes, the highest first, and a message.
//! A member may speak for itself alone: the kernel says which user connects, and it must be the member's. The scheduler
//! is asked over this agent's own connection, and takes this node's word for members of this node only.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use dure_proto::v1::{ExecEnd, ExecInput, ExecOutput, ExecStart, exec_input, exec_output};
use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    durable,
    launch::ProcessSettings,
    model::MemberId,
    session::{Way, Ways},
    shim::files::MemberFiles,
};

/// Programs of steps that this node has started, here and elsewhere.
const MAX_STEPS: usize = 1_024;
/// The largest frame: an environment and a command of the largest size that a submission may have, twice.
const MAX_FRAME: u32 = 512 * 1024;
/// Inputs that wait for the scheduler.
const MAX_INPUTS: usize = 64;

/// The socket, in the folder that members can pass through.
pub(crate) fn socket(run_root: &Path) -> PathBuf {
    run_root.join("steps.sock")
}

/// Serves the socket for ever.
pub(crate) async fn serve(settings: Arc<ProcessSettings>, ways: Ways) {
    let path = socket(&settings.isolation.run_root());
    let listener = match listen(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "batch scripts cannot start steps on this node");
            return;
        }
    };
    let room = Arc::new(Semaphore::new(MAX_STEPS));
    loop {
        let Ok(turn) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (settings, way) = (settings.clone(), ways.lock().unwrap_or_else(PoisonError::into_inner).clone());
        tokio::spawn(async move {
            one(&settings, way, stream).await;
            drop(turn);
        });
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        durable::create_dir(dir)?;
    }
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// One program, from its start to its end. Whoever asked is gone when the connection is, and the program with it.
async fn one(settings: &ProcessSettings, way: Option<Way>, stream: UnixStream) {
    let peer = stream.peer_cred().map(|peer| peer.uid());
    let (from, mut to) = stream.into_split();
    if let Err(why) = run(settings, way, peer, from, &mut to).await {
        let end = exec_output::Kind::End(ExecEnd { code: 126, error: why });
        // Nobody listens any more when this fails.
        let _ = write(&mut to, &ExecOutput { kind: Some(end) }).await;
    }
}

async fn run(
    settings: &ProcessSettings,
    way: Option<Way>,
    peer: io::Result<u32>,
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
) -> Result<(), String> {
    let start: ExecStart = read(&mut from).await.map_err(|err| format!("the step cannot be read: {err}"))?;
    allowed(settings, &start, peer)?;
    let way = way.ok_or("the node has no scheduler now: try again")?;
    let (inputs, queue) = mpsc::channel(MAX_INPUTS);
    let first = ExecInput { kind: Some(exec_input::Kind::Start(start)) };
    inputs.send(first).await.map_err(|_| "the call ended before it began".to_owned())?;
    let call = way.exec(ReceiverStream::new(queue)).await;
    let mut outputs = call.map_err(|status| status.message().to_owned())?;
    // A task: a frame that is half read must be read on, whatever comes the other way.
    let mut listening = tokio::spawn(async move {
        while let Ok(input) = read::<ExecInput>(&mut from).await {
            if inputs.send(input).await.is_err() {
                return;
            }
        }
    });
    let over = loop {
        tokio::select! {
            // It hangs up: the call ends with this function, and the program with the call.
            _ = &mut listening => return Ok(()),
            output = outputs.message() => match output {
                Ok(Some(output)) => {
                    if let Err(err) = write(to, &output).await {
                        break Err(err.to_string());
                    }
                }
                Ok(None) => break Ok(()),
                Err(status) => break Err(status.message().to_owned()),
            },
        }
    };
    listening.abort();
    over
}

/// Whether the user that connects is that of the running member it speaks for.
fn allowed(settings: &ProcessSettings, start: &ExecStart, peer: io::Result<u32>) -> Result<(), String> {
    let step = start.step.as_ref().ok_or("no step: srun asks for it, not you")?;
    let id = MemberId { job: start.job_id, attempt: step.attempt, member: step.member };
    let files = MemberFiles::new(&settings.state_dir.join("members").join(id.to_string()));
    let (Ok(spec), Some(_), None) = (files.read_spec(), files.read_started(), files.read_exit()) else {
        return Err(format!("member {id} does not run on node {}", settings.node));
    };
    let own = rustix::process::geteuid().as_raw();
    let user = spec.entry.confinement.account.map_or(own, |account| account.uid);
    let peer = peer.map_err(|err| format!("who connects is not known: {err}"))?;
    if peer == user {
        Ok(())
    } else {
        Err(format!("user {peer} does not speak for member {id}, which is user {user}'s"))
    }
}

async fn read<M: Message + Default>(from: &mut OwnedReadHalf) -> io::Result<M> {
    let length = from.read_u32().await?;
    if length > MAX_FRAME {
        return Err(io::Error::other(format!("a frame of {length} bytes: at most {MAX_FRAME}")));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes).await?;
    M::decode(&*bytes).map_err(io::Error::other)
}

async fn write(to: &mut OwnedWriteHalf, message: &impl Message) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await
}
