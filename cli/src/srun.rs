//! `srun` and `scontrol` inside a member: what batch scripts of Slurm call.
//!
//! Where every member runs the script, every member's `srun` starts the tasks of the step that lie on it. Where the
//! script of a batch job runs on the first member alone, `remote` takes the words to every member of the step, and there
//! the same is done. The step as a whole lies over the allocation: rank and size are those of the whole step. Comes in:
//! srun's words and the member's environment. Goes out: the tasks, and the highest of their exit codes.
//! This part must never start a task that belongs to another member.

mod options;
mod remote;
mod step;

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitCode, Stdio},
    thread,
};

use self::{
    options::Options,
    step::{Allocation, Task},
};

/// Exit code of a step that was asked for wrongly, as srun has it.
const WRONG: u8 = 1;

/// Runs `srun WORDS`.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    match run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("srun: error: {why}");
            ExitCode::from(WRONG)
        }
    }
}

/// `scontrol show hostnames [LIST]`; everything else asks for a Slurm that is not there.
pub(crate) fn scontrol(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let list = match words[..] {
        ["show", "hostname" | "hostnames", list] => list.to_owned(),
        ["show", "hostname" | "hostnames"] => std::env::var("SLURM_JOB_NODELIST").unwrap_or_default(),
        _ => {
            eprintln!("scontrol: only \"show hostnames\" is known inside a job of Dure; see dure --help");
            return ExitCode::from(WRONG);
        }
    };
    for name in step::expand(&list) {
        println!("{name}");
    }
    ExitCode::SUCCESS
}

/// `dure-rsh`: what mpirun calls in place of ssh.
pub(crate) fn rsh(words: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    match remote::shell(&words) {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("dure-rsh: error: {why}");
            ExitCode::from(WRONG)
        }
    }
}

/// Takes the step to every member that it lies on.
fn spread(words: &[String], options: &Options, allocation: &Allocation) -> Result<u8, String> {
    let number = remote::next_step()?;
    let args: Vec<String> = std::iter::once("srun".to_owned()).chain(words.iter().cloned()).collect();
    let program = |member| remote::Program {
        member,
        args: args.clone(),
        env: ["SLURM_STEP_ID", "SLURM_STEPID"].map(|name| (name, number.to_string())).into(),
    };
    let members = step::members(options, allocation)?;
    let name = options.name.clone().unwrap_or_else(|| remote::name_of(&options.command));
    remote::run(remote::Step { number, name }, (0..members).map(program).collect(), options.all_or_none)
}

fn run(words: &[String]) -> Result<u8, String> {
    let options = Options::parse(words)?;
    let allocation = Allocation::of_environment(|name| std::env::var(name).ok())?;
    if remote::is_script() {
        return spread(words, &options, &allocation);
    }
    let tasks = step::tasks(&options, &allocation)?;
    if tasks.is_empty() {
        return Ok(0);
    }
    let own = remote::Own::begins(&options.command, options.name.as_deref());
    let code = run_here(&options, &tasks);
    own.ended(code.as_ref().copied().unwrap_or(WRONG));
    code
}

/// Runs the tasks of this member and gives the highest of their codes.
fn run_here(options: &Options, tasks: &[Task]) -> Result<u8, String> {
    let mut running = Vec::with_capacity(tasks.len());
    for task in tasks {
        running.push(start(options, task)?);
    }
    let mut worst = 0;
    let mut over = Vec::new();
    for (number, (mut child, readers)) in running.into_iter().enumerate() {
        let status = child.wait().map_err(|err| format!("task {}: {err}", tasks[number].rank))?;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        if code != 0 {
            eprintln!("srun: error: task {}: exited with exit code {code}", tasks[number].rank);
        }
        worst = worst.max(u8::try_from(code).unwrap_or(u8::MAX));
        over.extend(readers);
    }
    for reader in over {
        reader.join().map_err(|_| "reading a task's output failed".to_owned())?;
    }
    Ok(worst)
}

type Running = (Child, Vec<thread::JoinHandle<()>>);

fn start(options: &Options, task: &Task) -> Result<Running, String> {
    let (program, args) = options.command.split_first().ok_or("no command was given")?;
    let mut command = Command::new(program);
    command.args(args).envs(task.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    if let Some(dir) = &options.chdir {
        command.current_dir(dir);
    }
    if task.rank > 0 {
        // As srun does it: the standard input is the first task's.
        command.stdin(Stdio::null());
    }
    let file = |pattern: &String| {
        let path = pattern
            .replace("%t", &task.rank.to_string())
            .replace("%j", &std::env::var("SLURM_JOB_ID").unwrap_or_default())
            .replace("%N", &std::env::var("SLURMD_NODENAME").unwrap_or_default())
            .replace("%n", &task.env.get("SLURM_NODEID").cloned().unwrap_or_default());
        OpenOptions::new().create(true).append(true).open(&path).map_err(|err| format!("{path}: {err}"))
    };
    let output = options.output.as_ref().map(&file).transpose()?;
    let error = options.error.as_ref().map(&file).transpose()?;
    let label = options.label.then(|| task.rank.to_string());
    if label.is_some() {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    if let Some(output) = output {
        if error.is_none() {
            command.stderr(output.try_clone().map_err(|err| err.to_string())?);
        }
        command.stdout(output);
    }
    if let Some(error) = error {
        command.stderr(error);
    }
    let mut child = command.spawn().map_err(|err| format!("task {}: {program}: {err}", task.rank))?;
    let mut readers = Vec::new();
    if let Some(label) = label {
        readers.extend(child.stdout.take().map(|pipe| labelled(label.clone(), pipe, false)));
        readers.extend(child.stderr.take().map(|pipe| labelled(label, pipe, true)));
    }
    Ok((child, readers))
}

fn labelled(label: String, pipe: impl Read + Send + 'static, stderr: bool) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = [label.as_bytes(), b": ", &line].concat();
            // Whoever read our output has gone: the task goes on.
            let _ = if stderr { std::io::stderr().write_all(&text) } else { std::io::stdout().write_all(&text) };
            line.clear();
        }
    })
}
