//! `dure replay`, `generate` and `what-if` from outside: what is wrong with a file is named with its remedy, equal seeds give
//! equal digests, and a live cluster, its journal and its questions to the future agree.

use std::path::Path;
use std::process::Command;

use dure_proto::v1::JobPhase;
use dure_scheduler::etcd::local::{LocalError, LocalEtcd};
use dure_tests::cli::Said;
use dure_tests::cluster::Cluster;
use dure_tests::drafts::script;
use dure_tests::setup::{Setup, Who};
use dure_tests::wait::until_some;
use expect_test::expect;

fn dure(folder: &Path, args: &[&str]) -> Said {
    let output = Command::new(crate::DURE).args(args).current_dir(folder).output();
    Said::from(output.expect("dure starts"))
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("a file");
}

const JOBS: &str = "job_id,submit_s,duration_s,num_gpu,tenant\na,0,10,8,x\nb,1,10,8,y\n";
const NODES: &str = "node,gpus,pool\nn0,8,x\nn1,8,y\n";

#[test]
fn bad_input_names_file_line_field_value_and_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    write(at, "jobs.csv", JOBS);
    write(at, "nodes.csv", NODES);
    write(at, "late.csv", "job_id,submit_s,duration_s,num_gpu\na,0,soon,8\n");
    write(at, "sacct.txt", "JobID|Submit|ElapsedRaw|AllocTRES\n1|yesterday|5|gres/gpu=1\n");
    write(at, "missions.csv", "tenant,quota\nx,many\n");
    write(at, "faults.csv", "time_s,node,gpu,duration_s\n5,n7,,60\n");
    write(at, "huge.csv", "job_id,submit_s,duration_s,num_gpu,nodes\na,0,1,9,1\n");
    let replay = |args: &[&str]| {
        let said = dure(at, &[&["replay", "--nodes", "nodes.csv"], args].concat());
        assert!(said.out.is_empty(), "{said:?}");
        format!("{} {}", said.code, said.err.trim_end())
    };
    let refusals = [
        replay(&["--jobs", "nowhere.csv"]),
        replay(&["--jobs", "nodes.csv"]),
        replay(&["--jobs", "late.csv"]),
        replay(&["--jobs", "sacct.txt"]),
        replay(&["--jobs", "jobs.csv", "--missions", "missions.csv"]),
        replay(&["--jobs", "jobs.csv", "--inject", "faults.csv"]),
        replay(&["--jobs", "huge.csv"]),
        replay(&["--jobs", "jobs.csv", "--window", "100..200"]),
        replay(&["--jobs", "jobs.csv", "--policy", "fifo", "--without", "reclaim"]),
        replay(&["--jobs", "jobs.csv", "--partitioned"]),
        replay(&["--journal", "nowhere"]),
    ];
    expect![[r#"
        2 error: nowhere.csv: No such file or directory (os error 2)
        2 error: nodes.csv: line 1: there is no column "job_id"; its columns are node, gpus, pool
        2 error: late.csv: line 2: field "duration_s" is "soon": write seconds, 0 or more, as in 12.5
        2 error: sacct.txt: line 2: field "Submit" is "yesterday": write it as 2026-01-31T12:00:00, or as seconds since 1970
        2 error: missions.csv: line 2: field "quota" is "many": write a whole number
        2 error: faults.csv: line 2: field "node" is "n7": name a node of the node file
        1 error: job a: num_gpu is 9 on 1 nodes, and nodes have 8 GPUs: no equal members make that
        2 error: no job is left to replay: see --window and --tenants
        2 error: --without and --inject are for --policy dure
        2 error: --partitioned: quotas divide the GPUs; try --without borrowing
        1 error: nowhere: directory nowhere/journal holds no journal: name the directory of the journal or of a backup"#]].assert_eq(&refusals.join("\n"));
    let unknown = dure(at, &["replay", "--nodes", "nodes.csv", "--jobs", "jobs.csv", "--without", "luck"]);
    assert!(
        unknown.code == 2 && unknown.err.contains("borrowing, reclaim, plan, backfill, classes, topology"),
        "{unknown:?}"
    );
    let wide = dure(at, &["generate", "--gpus", "4", "--jobs", "j.csv"]);
    assert!(wide.code == 2 && wide.err.contains("8..=1000000"), "{wide:?}");
}

#[test]
fn equal_seeds_give_equal_files_and_digests() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let generate = |seed: &str, name: &str| {
        let (jobs, missions) = (format!("{name}.jobs"), format!("{name}.missions"));
        let size = ["--gpus", "64", "--days", "2", "--seed", seed];
        let files = ["--jobs", &jobs, "--nodes", "nodes", "--missions", &missions];
        let said = dure(at, &[&["generate"][..], &size, &files].concat());
        assert_eq!(said.code, 0, "{said:?}");
        std::fs::read_to_string(at.join(jobs)).expect("it is written")
    };
    assert_eq!(generate("7", "a"), generate("7", "b"));
    assert_ne!(generate("7", "a"), generate("8", "c"));
    // Two nodes to a leaf: where gangs lie makes a difference.
    let nodes = std::fs::read_to_string(at.join("nodes")).expect("it is written");
    let leafy = |(at, line): (usize, &str)| line.replace(",l0", &format!(",l{}", at / 2)) + "\n";
    write(at, "nodes", &nodes.lines().enumerate().map(leafy).collect::<String>());
    // The digest covers the options as well: what they change is in the placements.
    let replay = |more: &[&str]| {
        let files = ["replay", "--jobs", "a.jobs", "--nodes", "nodes", "--missions", "a.missions", "--output", "json"];
        let said = dure(at, &[&files[..], &["--placements", "placements"], more].concat());
        assert_eq!(said.code, 0, "{said:?}");
        let report: serde_json::Value = serde_json::from_str(&said.out).expect("a report");
        let of = |name: &str| report["all"][name].as_u64().expect("a number");
        let refused = report["refused_jobs"].as_u64().expect("a number");
        assert_eq!(of("ended") + refused, of("jobs"), "every job ends or is refused: {report}");
        let placements = std::fs::read_to_string(at.join("placements")).expect("they are written");
        (report["digest"].as_str().expect("it has one").to_owned(), placements)
    };
    let first = replay(&[]);
    assert!(replay(&[]) == first, "equal digests and equal placements");
    assert!(replay(&["--without", "classes"]).1 == first.1, "classes save work and change nothing");
    for rule in ["borrowing", "reclaim", "backfill", "topology"] {
        assert!(replay(&["--without", rule]).1 != first.1, "{rule}");
    }
    for run_times in ["limit", "learned"] {
        assert!(replay(&["--run-times", run_times]).1 != first.1, "{run_times}");
    }
}

#[test]
fn slurms_accounting_is_replayed() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    write(at, "nodes.csv", NODES);
    write(
        at,
        "sacct.txt",
        "JobID|User|Account|Submit|Start|ElapsedRaw|TimelimitRaw|NNodes|AllocTRES\n\
         1|kim|x|1000|1000|60|10|2|gres/gpu=16\n1.batch|kim|x|1000|1000|60|10|1|gres/gpu=8\n\
         2|lee|y|1001|1100|30|10|1|gres/gpu=8\n3|lee|y|1002|Unknown|0|10|1|\n",
    );
    let said = dure(at, &["replay", "--jobs", "sacct.txt", "--nodes", "nodes.csv", "--placements", "p.csv"]);
    assert_eq!(said.code, 0, "{said:?}");
    let rows = std::fs::read_to_string(at.join("p.csv")).expect("it is written");
    expect![[r#"
        time_s,event,job,attempt,node,gpus,milli
        1000.000,start,1,1,n0,0+1+2+3+4+5+6+7,1000
        1000.000,start,1,1,n1,0+1+2+3+4+5+6+7,1000
        1060.000,end,1,1,,,
        1060.000,start,2,1,n0,0+1+2+3+4+5+6+7,1000
        1090.000,end,2,1,,,
    "#]]
    .assert_eq(&rows);
}

#[tokio::test]
async fn a_live_cluster_tells_its_jobs_when_they_start() {
    let more = "[estimates]\nevery = \"100ms\"";
    let cluster = Cluster::start(crate::DURE, Setup { nodes: 2, more, ..Setup::default() }).await;
    let op = cluster.caller(Who::Op);
    // Both inside their quotas: fusion, which comes last, has nothing to take back, and waits.
    let first = op.submit(script("solar", 1, 8, "sleep 600")).await;
    let second = op.submit(script("space", 1, 8, "sleep 600")).await;
    op.phase(first, JobPhase::Running).await;
    op.phase(second, JobPhase::Running).await;
    let waits = op.submit(script("fusion", 1, 8, "true")).await;
    op.job_is(waits, "is told when it starts", |job| job.estimate.is_some()).await;
    let (id, ana) = (waits.to_string(), async |args: &[&str]| cluster.dure(Who::Ana, args).await);
    let said = |said: &Said, what: &str| assert!(said.code == 0 && said.out.contains(what), "{what}: {said:?}");
    said(&ana(&["queue"]).await, "STARTS");
    said(&ana(&["job", &id]).await, "estimate:");
    said(&ana(&["explain", &id]).await, "it starts about ");
    // What is only tried is not submitted, and what can never be is refused with its remedy.
    said(
        &ana(&["submit", "--test-only", "-A", "fusion", "--gpus", "8", "--", "train"]).await,
        "job train starts about ",
    );
    let never = ["submit", "--test-only", "-A", "fusion", "--members", "3", "--gpus-per-member", "8", "--", "train"];
    let never = ana(&never).await;
    assert!(never.code == 1 && never.err.contains("jobs[0]"), "{never:?}");
    assert_eq!(op.all_jobs(Default::default()).await.expect("listed").len(), 3);
    // A further node lets it start at once; a change is approved on that forecast, and the wrong word for it is refused.
    let json =
        |said: &Said| -> serde_json::Value { serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{said:?}")) };
    let asked = cluster.dure(Who::Op, &["what-if", "--add-nodes", "1:n0", "--output", "json"]).await;
    let seen = json(&asked);
    let fusion = seen["missions"].as_array().expect("missions").iter().find(|of| of["tenant"] == "fusion");
    let fusion = fusion.expect("it is a mission");
    let mean = |when: &str| fusion[when]["wait_mean_s"].as_f64().unwrap_or(0.0);
    assert!(mean("after") + 30.0 < mean("before"), "what runs has a limit of two minutes: {seen}");
    let digest = seen["digest"].as_str().expect("it has one");
    let set = ["quota", "set", "fusion", "--quota", "10", "--forecast"];
    said(&cluster.dure(Who::Op, &[&set[..], &[digest]].concat()).await, "fusion");
    let wrong = cluster.dure(Who::Op, &[&set[..], &["beef"]].concat()).await;
    assert!(wrong.code == 1 && wrong.err.contains("forecast: \"beef\""), "{wrong:?}");
    let only_own = json(&ana(&["what-if", "--output", "json"]).await);
    assert_eq!(only_own["missions"].as_array().map(Vec::len), Some(2), "ana is in two missions: {only_own}");
    // The journal answers too, beside its scheduler; and when the job starts, what it was told is compared.
    op.jobs().cancel(dure_proto::v1::CancelRequest { job_id: first, ..Default::default() }).await.expect("ended");
    op.ended(waits).await;
    until_some("the estimate is compared with the start", async || {
        let fared = json(&cluster.dure(Who::Op, &["estimates", "--output", "json"]).await);
        (fared["rows"][0]["jobs"] == 1 && fared["rows"][0]["by_p90"] == 1).then_some(())
    })
    .await;
    let folder = cluster.data_dir().display().to_string();
    said(&cluster.dure(Who::Op, &["what-if", "--data-dir", &folder, "--quota", "fusion=4"]).await, "10 -> 4");
    said(&cluster.dure(Who::Op, &["what-if", "--last", "30d", "--quota", "fusion=4"]).await, "10 -> 4");
    said(&cluster.dure(Who::Op, &["replay", "--journal", &folder]).await, "fusion");
}

#[tokio::test]
async fn a_journal_that_moves_to_etcd_and_back_is_replayed_alike() {
    let mut cluster = Cluster::start(crate::DURE, Setup { nodes: 1, ..Setup::default() }).await;
    std::fs::create_dir(cluster.path("etcd")).expect("a folder");
    let etcd = match LocalEtcd::start(&cluster.path("etcd"), 1) {
        Ok(etcd) => etcd,
        Err(LocalError::NotInstalled) => return println!("skipped: etcd is not installed"),
        Err(err) => panic!("{err}"),
    };
    let op = cluster.caller(Who::Op);
    for mission in ["fusion", "solar"] {
        let job = op.submit(script(mission, 1, 8, "true")).await;
        op.ended(job).await;
    }
    cluster.kill_scheduler();
    let config = cluster.path("several.toml");
    let old = std::fs::read_to_string(cluster.path("scheduler.toml")).expect("it is there");
    let text = format!("advertise = \"{}\"\n{old}\n[etcd]\nendpoints = {:?}\n", cluster.server(), etcd.endpoints());
    std::fs::write(&config, text).expect("it is written");
    let config = config.display().to_string();
    let said = async |args: &[&str]| {
        let said = cluster.dure(Who::Op, args).await;
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.out
    };
    let folder = cluster.data_dir().display().to_string();
    let placements = cluster.path("placements.csv");
    let replayed = async |of: &str| {
        said(&["replay", "--journal", of, "--placements", &placements.display().to_string()]).await;
        std::fs::read_to_string(&placements).expect("they are written")
    };
    let before = replayed(&folder).await;
    assert_eq!(before.lines().count(), 5, "two jobs start and end: {before}");
    said(&["store", "move", "--config", &config, "--to", "etcd"]).await;
    assert_eq!(replayed(&config).await, before, "in etcd");
    assert!(said(&["what-if", "--data-dir", &config, "--quota", "fusion=4"]).await.contains("-> 4"));
    std::fs::rename(cluster.data_dir().join("journal"), cluster.path("moved")).expect("it is renamed");
    said(&["store", "move", "--config", &config, "--to", "sqlite"]).await;
    assert_eq!(replayed(&folder).await, before, "back in the folder");
}
