//! `dure logs`: the output of a member, read from its node.

use clap::Args;
use dure_proto::v1::LogsRequest;

use crate::{
    context::Context,
    failure::Failure,
    jobid::{self, JobRef},
    show::Out,
};

/// Show the output of a job
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The job: 12, or 12_7 for index 7 of the array 12
    #[arg(value_name = "ID")]
    id: JobRef,
    /// Go on until the member ends
    #[arg(short, long)]
    follow: bool,
    /// Which member of the gang
    #[arg(short, long, default_value_t = 0, value_name = "RANK")]
    member: u32,
    /// Which attempt [default: the last one]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    attempt: u32,
    /// The standard error instead of the standard output
    #[arg(long)]
    stderr: bool,
    /// Only the last bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0, hide_default_value = true)]
    tail: u64,
}

/// Runs the command.
pub(crate) async fn run(args: LogsArgs, context: &Context, out: Out) -> Result<(), Failure> {
    let mut client = context.jobs().await?;
    let job_id = jobid::resolve(context, &mut client, args.id).await?;
    let mut request = LogsRequest {
        job_id,
        member: args.member,
        attempt: args.attempt,
        stderr: args.stderr,
        follow: args.follow,
        offset: 0,
        tail_bytes: args.tail,
    };
    loop {
        let mut stream = client.logs(request).await.map_err(|status| context.refused(status))?.into_inner();
        let from = request.offset;
        loop {
            let chunk = match stream.message().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(()),
                // Cut off for being slow, or with the agent's session: on from where it was, if it came anywhere.
                Err(status) if status.code() == tonic::Code::Aborted && request.offset > from => break,
                Err(status) => return Err(context.refused(status)),
            };
            request.offset = chunk.offset + chunk.data.len() as u64;
            request.tail_bytes = 0;
            if out.is_json() {
                out.answer("LogChunk", &chunk, String::new)?;
                continue;
            }
            if chunk.left_out > 0 {
                eprintln!("dure: {} bytes left out: the output comes faster than it is read", chunk.left_out);
            }
            out.bytes(&chunk.data)?;
        }
    }
}
