//! A member's folder, ready for its shim.
//!
//! Comes in: the launch. Goes out: script, working folder, log names and `spec.json`, or the reason why the member
//! cannot run here, in words for the person who submitted it. Blocking.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown, fchown, symlink},
    path::PathBuf,
};

use dure_proto::v1::Payload;

use super::ProcessSettings;
use crate::{
    config::HooksConfig,
    durable,
    isolation::{Granted, account::Account, plan::Confinement},
    launch::{
        container::{self, Inside},
        env::{Place, environment},
        paths, rendezvous,
    },
    logs,
    model::{Launch, MemberId},
    shim::{
        self,
        files::{Entry, MemberFiles, ShimSpec, Signals},
        hooks::Hooks,
    },
    steps,
};

pub(super) fn prepare(
    settings: &ProcessSettings,
    inherited: &[(String, String)],
    id: MemberId,
    launch: &Launch,
) -> Result<(), String> {
    let dir = settings.state_dir.join("members").join(id.to_string());
    let files = MemberFiles::new(&dir);
    if files.read_shim().is_some() {
        // An earlier life of the agent has come this far; a shim may be reading these files.
        return Ok(());
    }
    let payload = launch.payload.clone().unwrap_or_default();
    let uuids = granted(settings, launch)?;
    let account = settings.isolation.account(&launch.user)?;
    let given = Given::make(settings, id, account.as_ref())?;
    let workdir = workdir(settings, id, &payload, account.as_ref())?;
    let argv = if payload.batch && id.member > 0 { hold(settings)? } else { argv(&given, &payload)? };
    let confinement = confine(settings, id, launch, account.as_ref());
    make_tmp(settings, id).map_err(|err| format!("private /tmp: {err}: free space on this node"))?;
    let report = given.dir.join("report");
    let place = Place {
        id,
        launch,
        node: &settings.node,
        gpu_uuids: &uuids,
        gpu_memory_mib: memory_of_first(settings, launch),
        member_dir: &dir,
        workdir: &workdir,
        report: &report,
        hostfile: &given.dir.join("hostfile"),
        bin: &given.dir.join("bin"),
        steps: &steps::socket(&settings.isolation.run_root()),
        network: &settings.network,
        account: account.as_ref(),
        inherited,
    };
    given.put("hostfile", rendezvous::hostfile(&place).as_bytes())?;
    given.stand_in(settings)?;
    given.own_dir("steps")?;
    let env = environment(&place);
    let contained = payload.container.as_ref().filter(|_| !(payload.batch && id.member > 0)).map(|asked| {
        let env = environment(&Place { inherited: &[], ..place });
        let is_fresh = payload.workdir.is_empty();
        let (account, argv) = (account.as_ref(), argv.clone());
        let (given, dir, workdir, uuids) = (&*given.dir, &*dir, &*workdir, &*uuids);
        container::prepare(
            settings,
            asked,
            Inside { id, launch, dir, given, workdir, is_fresh, env, argv, uuids, account },
        )
    });
    let contained = contained.transpose()?;
    let chosen =
        |pattern: &str| (!pattern.is_empty()).then(|| paths::expand(pattern, id, launch, &settings.node, &workdir));
    let spec = ShimSpec {
        logs: logs::folder(&settings.state_dir, id),
        stdout_copy: chosen(&payload.stdout_path),
        stderr_copy: chosen(&payload.stderr_path),
        entry: Entry { argv, env: env.into_iter().collect(), workdir, confinement, contained, ..Entry::default() },
        log_limit_bytes: settings.log_limit_bytes,
        time_limit_ms: launch.time_limit_ms,
        grace_ms: launch.grace_ms,
        signals: signals(&payload),
        hooks: hooks(settings, id, launch, &uuids, account.as_ref()),
        report: Some(report),
        boot_id: settings.boot_id.clone(),
    };
    files.write_spec(&spec).map_err(|err| format!("{}: {err}: free space on this node", dir.display()))
}

/// How the member is kept apart from the rest of the node.
fn confine(settings: &ProcessSettings, id: MemberId, launch: &Launch, account: Option<&Account>) -> Confinement {
    settings.isolation.confine(&Granted {
        id,
        gpus: &launch.gpus,
        cpu_milli: launch.cpu_milli,
        memory_mib: launch.memory_mib,
        shares_node: launch.peers.iter().filter(|peer| peer.node == settings.node).count() > 1,
        account,
    })
}

/// The site's programs, and what they may know: names and numbers that were checked, and nothing of the job's choice.
fn hooks(
    settings: &ProcessSettings,
    id: MemberId,
    launch: &Launch,
    uuids: &[String],
    account: Option<&Account>,
) -> Hooks {
    let mut env = vec![
        ("DURE_JOB_ID".to_owned(), id.job.to_string()),
        ("DURE_ATTEMPT".to_owned(), id.attempt.to_string()),
        ("DURE_MEMBER".to_owned(), id.member.to_string()),
        ("DURE_NODE".to_owned(), settings.node.clone()),
        ("DURE_TENANT".to_owned(), launch.tenant.clone()),
        ("DURE_GPU_UUIDS".to_owned(), uuids.join(",")),
    ];
    if let Some(account) = account {
        env.push(("DURE_ACCOUNT".to_owned(), account.name.clone()));
        env.push(("DURE_UID".to_owned(), account.uid.to_string()));
    }
    let HooksConfig { prolog, epilog, limit_s } = settings.hooks.clone();
    Hooks { prolog, epilog, limit_ms: limit_s.saturating_mul(1_000), env }
}

fn signals(payload: &Payload) -> Signals {
    let signals = payload.signals.clone().unwrap_or_default();
    // A number that is no signal is none: the submission has been checked.
    let number = |signal: u32| i32::try_from(signal).unwrap_or(0);
    Signals {
        stop: number(signals.stop),
        stop_ms: signals.stop_ms,
        limit: number(signals.limit),
        limit_before_ms: signals.limit_before_ms,
        hook: signals.hook,
    }
}

/// What the member is given: a folder of ours that its user can reach and not change, with files of the user's.
struct Given<'a> {
    dir: PathBuf,
    account: Option<&'a Account>,
}

impl<'a> Given<'a> {
    fn make(settings: &ProcessSettings, id: MemberId, account: Option<&'a Account>) -> Result<Self, String> {
        let dir = settings.isolation.run_root().join(id.to_string());
        let make = || -> io::Result<()> {
            durable::create_dir(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))
        };
        make().map_err(|err| format!("{}: {err}: free space on this node", dir.display()))?;
        Ok(Self { dir, account })
    }

    /// A file that only the member's user can read and run.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, String> {
        let path = self.dir.join(name);
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o500).open(&path)?;
            file.write_all(bytes)?;
            match self.account {
                Some(account) => fchown(&file, Some(account.uid), Some(account.gid)),
                None => Ok(()),
            }
        };
        write().map_err(|err| format!("{}: {err}: free space on this node", path.display()))?;
        Ok(path)
    }

    /// A folder of the user's.
    fn own_dir(&self, name: &str) -> Result<(), String> {
        let path = self.dir.join(name);
        let make = || -> io::Result<()> {
            durable::create_dir(&path)?;
            self.account.map_or(Ok(()), |account| chown(&path, Some(account.uid), Some(account.gid)))
        };
        make().map_err(|err| format!("{}: {err}: free space on this node", path.display()))
    }

    /// Names under which the member finds this binary.
    fn stand_in(&self, settings: &ProcessSettings) -> Result<(), String> {
        let bin = self.dir.join("bin");
        let own = PathBuf::from(settings.shim.first().cloned().unwrap_or_default());
        let make = || -> io::Result<()> {
            durable::create_dir(&bin)?;
            fs::set_permissions(&bin, fs::Permissions::from_mode(0o755))?;
            for name in STAND_INS {
                match symlink(&own, bin.join(name)) {
                    Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
                    _ => {}
                }
            }
            Ok(())
        };
        make().map_err(|err| format!("{}: {err}: free space on this node", bin.display()))
    }
}

/// Programs of Slurm that this binary stands in for, inside a member.
const STAND_INS: [&str; 3] = ["srun", "scontrol", "dure-rsh"];

fn make_tmp(settings: &ProcessSettings, id: MemberId) -> io::Result<()> {
    let Some(dir) = settings.isolation.tmp_dir(id) else { return Ok(()) };
    durable::create_dir(&dir)?;
    for name in ["tmp", "var-tmp"] {
        let path = dir.join(name);
        durable::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o1777))?;
    }
    Ok(())
}

/// What the member sees: its GPUs, or the one MIG instance of its GPU.
fn granted(settings: &ProcessSettings, launch: &Launch) -> Result<Vec<String>, String> {
    if let Some(wanted) = &launch.mig {
        let gpu = launch.gpus.first().copied().unwrap_or(0);
        let instances = settings.mig_instances.get(gpu as usize).map_or(&[][..], |list| list);
        let found =
            instances.iter().find(|found| found.profile == wanted.profile && found.first_slice == wanted.first_slice);
        return found.map(|found| vec![found.uuid.clone()]).ok_or_else(|| {
            let (profile, slice, node) = (&wanted.profile, wanted.first_slice, &settings.node);
            format!("GPU {gpu} of node {node} has no MIG instance {profile} at slice {slice}: restart its agent after GPUs are cut anew")
        });
    }
    let uuid = |gpu: &u32| {
        let known = settings.gpu_uuids.get(*gpu as usize).filter(|uuid| !uuid.is_empty());
        known.cloned().ok_or_else(|| {
            let count = settings.gpu_uuids.len();
            format!("GPU {gpu} is not usable on node {}: it has {count} GPUs", settings.node)
        })
    };
    launch.gpus.iter().map(uuid).collect()
}

/// Memory of the first granted GPU, in MiB; 0: there is none, or its memory is not known.
fn memory_of_first(settings: &ProcessSettings, launch: &Launch) -> u64 {
    launch.gpus.first().and_then(|gpu| settings.gpu_memory_mib.get(*gpu as usize)).copied().unwrap_or(0)
}

fn workdir(
    settings: &ProcessSettings,
    id: MemberId,
    payload: &Payload,
    account: Option<&Account>,
) -> Result<PathBuf, String> {
    if payload.workdir.is_empty() {
        let fresh = settings.state_dir.join("work").join(id.to_string());
        let make = || -> io::Result<()> {
            durable::create_dir(&fresh)?;
            account.map_or(Ok(()), |account| chown(&fresh, Some(account.uid), Some(account.gid)))
        };
        make().map_err(|err| format!("working folder {}: {err}", fresh.display()))?;
        return Ok(fresh);
    }
    let wanted = PathBuf::from(&payload.workdir);
    // Whether its user reaches it is seen on the way in, with that user's rights; only its shape is looked at here.
    if !wanted.is_absolute() || (account.is_none() && !wanted.is_dir()) {
        return Err(format!(
            "workdir \"{}\" is no folder on node {}: name an absolute one that every node has",
            payload.workdir, settings.node
        ));
    }
    Ok(wanted)
}

/// What a member runs whose batch script runs elsewhere: nothing, until it is stopped.
fn hold(settings: &ProcessSettings) -> Result<Vec<String>, String> {
    let command =
        settings.shim.iter().map(|word| word.to_str().map(str::to_owned).ok_or("the shim's command is not UTF-8"));
    Ok(command.chain([Ok(shim::HOLD.to_owned())]).collect::<Result<_, _>>()?)
}

/// The command; a script becomes a file, run by the interpreter in its first line or else by /bin/sh.
fn argv(given: &Given<'_>, payload: &Payload) -> Result<Vec<String>, String> {
    if payload.script.is_empty() {
        return Ok(payload.args.clone());
    }
    let path = given.put("script", &payload.script)?;
    let mut argv = Vec::with_capacity(payload.args.len() + 2);
    if !payload.script.starts_with(b"#!") {
        argv.push("/bin/sh".to_owned());
    }
    argv.push(path.to_str().ok_or("the agent's state_dir is not UTF-8")?.to_owned());
    argv.extend(payload.args.iter().cloned());
    Ok(argv)
}
