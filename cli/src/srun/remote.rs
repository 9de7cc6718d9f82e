//! A step of a batch script: the script runs on the first member, and this takes `srun` to the members of the step.
//!
//! Comes in: srun's own words. Goes out: the same words, run beside every member of the step through the agent's socket,
//! where they start the tasks of that member; the tasks' output as ours, the highest of their codes, and our standard
//! input to the first. Threads and blocking sockets: this is a small program beside a training job.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::mpsc,
    thread,
    time::Duration,
};

use dure_proto::v1::{ExecEnd, ExecInput, ExecOutput, ExecStart, StepOf, exec_input, exec_output};
use prost::Message;

/// Where the agent takes steps.
const SOCKET: &str = "DURE_STEPS";
/// Set for the script of a batch job, which runs on the first member alone.
const BATCH: &str = "DURE_BATCH";
/// How long a step that has ended waits for the scheduler to hear of it.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Set for what a step runs: there srun starts the tasks of its own member.
pub(super) const LOCAL: &str = "DURE_STEP_LOCAL";
/// Bytes of one input.
const CHUNK: usize = 16 * 1024;
/// The largest frame that an agent sends: one output and its frame.
const MAX_FRAME: u32 = 64 * 1024;
/// Variables that say who a member is: those of the script's member mean nothing beside another.
const OF_A_MEMBER: [&str; 12] = [
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "SLURMD_NODENAME",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_JOB_GPUS",
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "JAX_PROCESS_ID",
    "PET_NODE_RANK",
];

/// Whether this process runs in a batch script, and not in one of its steps.
pub(super) fn is_script() -> bool {
    std::env::var_os(BATCH).is_some() && std::env::var_os(LOCAL).is_none()
}

/// A step that this member runs by itself, as the scheduler is told of it. That it is told is no condition for anything: a
/// node without a scheduler runs its steps as well.
pub(super) struct Own(Option<UnixStream>);

impl Own {
    /// The tasks are about to start. What another member has started is that step's already.
    pub(super) fn begins(command: &[String], name: Option<&str>) -> Self {
        let is_part = std::env::var_os(LOCAL).is_some();
        Self(Some(()).filter(|()| !is_part).and_then(|()| Self::tell(command, name).ok()))
    }

    fn tell(command: &[String], name: Option<&str>) -> Result<UnixStream, String> {
        let From { socket, job_id, step } = From::here()?;
        let name = name.map_or_else(|| name_of(command), str::to_owned);
        let step = StepOf { number: next_step()?, name, own: true, ..step };
        let start = ExecStart { job_id, member: step.member, step: Some(step), ..ExecStart::default() };
        let mut stream = UnixStream::connect(socket).map_err(|err| err.to_string())?;
        send(&mut stream, &start).map_err(|err| err.to_string())?;
        Ok(stream)
    }

    /// The last of them has ended.
    pub(super) fn ended(self, code: u8) {
        let Some(mut stream) = self.0 else { return };
        let end = ExecEnd { code: code.into(), error: String::new() };
        let said = send(&mut stream, &ExecInput { kind: Some(exec_input::Kind::Ended(end)) });
        if said.and_then(|()| stream.set_read_timeout(Some(LAST_WORD))).is_ok() {
            // Hanging up before it was heard would look like being cut off.
            let _ = receive(&mut stream);
        }
    }
}

/// The script's place.
struct From {
    socket: String,
    job_id: u64,
    step: StepOf,
}

impl From {
    fn here() -> Result<Self, String> {
        let get =
            |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set: steps start in a batch job"));
        let number = |name: &str| get(name)?.parse::<u64>().map_err(|err| format!("{name}: {err}"));
        let small = |name: &str| u32::try_from(number(name)?).map_err(|err| format!("{name}: {err}"));
        let (attempt, member) = (small("DURE_ATTEMPT")?, small("DURE_MEMBER")?);
        let step = StepOf { attempt, member, ..StepOf::default() };
        Ok(Self { socket: get(SOCKET)?, job_id: number("DURE_JOB_ID")?, step })
    }
}

/// Steps of one script.
const MAX_STEPS: u32 = 1_000_000;

/// The number of a new step: each is a folder beside the report pipe, which only one can make.
pub(super) fn next_step() -> Result<u32, String> {
    let report = std::env::var("DURE_REPORT").map_err(|_| "DURE_REPORT is not set".to_owned())?;
    let dir = std::path::Path::new(&report).with_file_name("steps");
    let known = std::fs::read_dir(&dir).map_err(|err| format!("{}: {err}", dir.display()))?.count();
    for number in u32::try_from(known).unwrap_or(MAX_STEPS)..MAX_STEPS {
        match std::fs::create_dir(dir.join(number.to_string())) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| number).map_err(|err| format!("{}: {err}", dir.display())),
        }
    }
    Err(format!("{MAX_STEPS} steps were started: that is as many as one script may"))
}

/// What all programs of a step have in common.
pub(super) struct Step {
    pub(super) number: u32,
    /// As its user calls it.
    pub(super) name: String,
}

/// What is run beside one member.
pub(super) struct Program {
    pub(super) member: u32,
    pub(super) args: Vec<String>,
    /// Variables beside those of this process.
    pub(super) env: Vec<(&'static str, String)>,
}

/// Runs all of them and gives the highest of their codes. With `all_or_none` the first that fails ends the others.
pub(super) fn run(step: Step, programs: Vec<Program>, all_or_none: bool) -> Result<u8, String> {
    let mut from = From::here()?;
    (from.step.number, from.step.name) = (step.number, step.name);
    let mut streams = Vec::with_capacity(programs.len());
    for program in &programs {
        let mut stream = UnixStream::connect(&from.socket).map_err(|err| format!("{}: {err}", from.socket))?;
        send(&mut stream, &start(&from, program)).map_err(|err| format!("the node's agent: {err}"))?;
        streams.push(stream);
    }
    let (ended, ends) = mpsc::channel();
    for (place, stream) in streams.iter().enumerate() {
        let stream = stream.try_clone().map_err(|err| err.to_string())?;
        let (taken, takes) = mpsc::channel();
        if place == 0 {
            let to = stream.try_clone().map_err(|err| err.to_string())?;
            thread::spawn(move || feed(to, &takes));
        } else {
            let mut to = stream.try_clone().map_err(|err| err.to_string())?;
            let input = ExecInput { kind: Some(exec_input::Kind::StdinEnd(true)) };
            send(&mut to, &input).map_err(|err| err.to_string())?;
        }
        let ended = ended.clone();
        thread::spawn(move || ended.send((place, follow(stream, &taken))));
    }
    drop(ended);
    let mut worst = 0;
    for (place, end) in ends {
        if worst > 0 && all_or_none {
            // It was ended for the sake of the one that failed: that one's code is the step's.
            continue;
        }
        let code = u8::try_from(end.code).unwrap_or(u8::MAX);
        if !end.error.is_empty() {
            eprintln!("srun: error: member {}: {}", programs[place].member, end.error);
        }
        worst = worst.max(code);
        if code != 0 && all_or_none {
            // Hanging up ends the programs.
            streams.iter().for_each(|stream| drop(stream.shutdown(std::net::Shutdown::Both)));
        }
    }
    Ok(worst)
}

fn start(from: &From, program: &Program) -> ExecStart {
    let mut env: BTreeMap<String, String> = std::env::vars().collect();
    env.retain(|name, _| !OF_A_MEMBER.contains(&name.as_str()));
    if let Some(path) = env.get_mut("PATH") {
        // The first part is the folder of the script's own member; the other member has one of its own.
        *path = path.split_once(':').map_or(String::new(), |(_, rest)| rest.to_owned());
    }
    env.insert(LOCAL.to_owned(), "1".to_owned());
    env.extend(program.env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let workdir = std::env::current_dir().ok().and_then(|dir| dir.to_str().map(str::to_owned));
    ExecStart {
        job_id: from.job_id,
        member: program.member,
        args: program.args.clone(),
        env: env.into_iter().collect(),
        workdir: workdir.unwrap_or_default(),
        step: Some(from.step.clone()),
        ..ExecStart::default()
    }
}

/// Shows the program's output until its end.
fn follow(mut stream: UnixStream, taken: &mpsc::Sender<()>) -> ExecEnd {
    loop {
        let output = match receive(&mut stream) {
            Ok(output) => output,
            Err(err) => return ExecEnd { code: 137, error: format!("it was cut off: {err}") },
        };
        // Whoever read our output has gone: the program goes on.
        let _ = match output.kind {
            Some(exec_output::Kind::Stdout(bytes)) => {
                let mut out = io::stdout();
                out.write_all(&bytes).and_then(|()| out.flush())
            }
            Some(exec_output::Kind::Stderr(bytes)) => io::stderr().write_all(&bytes),
            Some(exec_output::Kind::Taken(_)) => {
                // Nobody waits for it once our input is at its end.
                let _ = taken.send(());
                Ok(())
            }
            Some(exec_output::Kind::End(end)) => return end,
            None => Ok(()),
        };
    }
}

/// Our standard input, one chunk after another, each when the one before was taken.
fn feed(mut to: UnixStream, takes: &mpsc::Receiver<()>) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = io::stdin().read(&mut chunk).unwrap_or(0);
        let kind = match count {
            0 => exec_input::Kind::StdinEnd(true),
            count => exec_input::Kind::Stdin(chunk[..count].to_vec()),
        };
        let sent = send(&mut to, &ExecInput { kind: Some(kind) });
        if sent.is_err() || count == 0 || takes.recv().is_err() {
            return;
        }
    }
}

fn send(to: &mut UnixStream, message: &impl Message) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&[&length.to_be_bytes()[..], &bytes].concat())
}

fn receive(from: &mut UnixStream) -> io::Result<ExecOutput> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    ExecOutput::decode(&*bytes).map_err(io::Error::other)
}

/// `dure-rsh [OPTIONS] HOST COMMAND..`: what mpirun calls in place of ssh.
pub(super) fn shell(words: &[String]) -> Result<u8, String> {
    let mut rest = words.iter();
    let mut host = None;
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-l" | "-o" | "-p" | "-i" | "-F" | "-b" | "-c" | "-m" => drop(rest.next()),
            option if option.starts_with('-') => {}
            name => {
                host = Some(name.rsplit_once('@').map_or(name, |(_, host)| host));
                break;
            }
        }
    }
    let host = host.ok_or("no host was given")?;
    let command: Vec<String> = rest.cloned().collect();
    if command.is_empty() {
        return Err("no command was given".to_owned());
    }
    let file = std::env::var("DURE_HOSTFILE").map_err(|_| "DURE_HOSTFILE is not set".to_owned())?;
    let hosts = std::fs::read_to_string(&file).map_err(|err| format!("{file}: {err}"))?;
    let nodes = std::env::var("DURE_NODELIST").unwrap_or_default();
    let member = member_of(host, &hosts, &nodes).ok_or_else(|| format!("{host} is no node of this job"))?;
    let step = Step { number: next_step()?, name: name_of(&command) };
    let args = vec!["/bin/sh".to_owned(), "-c".to_owned(), command.join(" ")];
    run(step, vec![Program { member, args, env: Vec::new() }], true)
}

/// What a step is called whose user does not say: its program.
pub(super) fn name_of(command: &[String]) -> String {
    let program = command.first().map_or("", String::as_str);
    program.rsplit('/').next().unwrap_or(program).to_owned()
}

/// The first member on a host, by its address in the host file or by the name of its node.
fn member_of(host: &str, hostfile: &str, nodes: &str) -> Option<u32> {
    let address = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let by_address = hostfile.lines().position(|line| address(line).as_deref() == Some(host));
    // Where every member has a node of its own, the list of nodes has the order of the ranks.
    let place = by_address.or_else(|| nodes.split(',').position(|node| node == host))?;
    u32::try_from(place).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_by_address_and_by_name() {
        let file = "10.0.0.1 slots=8\n10.0.0.2 slots=8\n";
        assert_eq!(member_of("10.0.0.2", file, "n0,n1"), Some(1));
        assert_eq!(member_of("n1", file, "n0,n1"), Some(1));
        assert_eq!(member_of("n2", file, "n0,n1"), None);
    }

    #[test]
    fn a_shell_without_a_host_or_a_command_is_refused() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(shell(&words("-x -l ana")).is_err_and(|why| why.contains("no host")));
        assert!(shell(&words("-x n1")).is_err_and(|why| why.contains("no command")));
    }
}
