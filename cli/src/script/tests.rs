use dure_proto::v1::JobSpec;
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::{table::OPTIONS, *};

fn check(text: &str, expected: Expect) {
    let shown = match read(text) {
        Err(err) => format!("refused: {err}\n"),
        Ok(asked) => {
            let draft = Draft { script: Some(b"#!/bin/sh\n".to_vec()), ..asked.draft };
            let mut shown = draft.spec().map_or_else(|why| format!("refused: {why}\n"), |spec| describe(&spec));
            asked.warnings.iter().for_each(|warning| shown.push_str(&format!("note: {warning}\n")));
            shown
        }
    };
    expected.assert_eq(&shown);
}

fn describe(spec: &JobSpec) -> String {
    let shape = spec.shape.as_ref().expect("always set");
    let payload = spec.payload.as_ref().expect("always set");
    let mut env: Vec<_> = payload.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    env.sort();
    let array = spec.array.map(|array| (array.size, array.max_running));
    format!(
        "{} {:?} {}x{}{} models={:?} cpu={} mem={} time={}s{}\nhold={} retries={} priority={:?} array={array:?} after={} out={:?} err={:?} dir={:?} env={env:?}\n",
        spec.tenant,
        spec.name,
        shape.members,
        shape.gpus_per_member,
        if shape.distinct_nodes { " distinct" } else { "" },
        spec.gpu_models,
        shape.cpu_milli_per_member,
        shape.memory_mib_per_member,
        spec.time_limit_ms / 1_000,
        if spec.time_min_ms > 0 { format!(" least={}s", spec.time_min_ms / 1_000) } else { String::new() },
        spec.hold,
        spec.max_retries,
        spec.priority,
        spec.dependencies.len(),
        payload.stdout_path,
        payload.stderr_path,
        payload.workdir,
    )
}

#[test]
fn a_script_of_another_scheduler_submits_as_it_is() {
    check(
        "#!/bin/bash\n#SBATCH -J pretrain            # what it is\n#SBATCH --account=fusion/edge\n#SBATCH -N4 --ntasks-per-node 1\n\
         #SBATCH --gres=gpu:h200:8\n#SBATCH -t 1-12:00:00\n#SBATCH -o logs/%A_%a.out\n\n# a comment\n#SBATCH --cpus-per-task=16\n\
         #SBATCH --mem=512G\n#SBATCH -p gpu --exclusive --mail-type=END\n#SBATCH -d afterok:12:13 --qos=high\nset -e\n#SBATCH --hold\n",
        expect![[r#"
            fusion/edge "pretrain" 4x8 distinct models=["h200"] cpu=16000 mem=524288 time=129600s
            hold=false retries=0 priority="high" array=None after=2 out="logs/%j_%a.out" err="logs/%j_%a.out" dir="" env=[]
            note: --mail-type is left aside: no mail is sent: dure watch follows your jobs
            note: --partition=gpu is left aside: name the tenant with --account, GPUs with --gres=gpu:MODEL:N
        "#]],
    );
}

#[test]
fn a_limit_may_be_lowered_by_a_line_of_either_kind() {
    check(
        "#!/bin/bash\n#SBATCH -A a -G 1 -t 12:00:00 --time-min=4:00:00\n",
        expect![[r#"
        a "" 1x1 models=[] cpu=0 mem=0 time=43200s least=14400s
        hold=false retries=0 priority="" array=None after=0 out="" err="" dir="" env=[]
    "#]],
    );
    check(
        "#!/bin/bash\n#DURE -A a --gpus 1 --time 12h --time-min 4h\n",
        expect![[r#"
        a "" 1x1 models=[] cpu=0 mem=0 time=43200s least=14400s
        hold=false retries=0 priority="" array=None after=0 out="" err="" dir="" env=[]
    "#]],
    );
    check(
        "#!/bin/bash\n#SBATCH -A a -G 1 -t 60 --time-min=0\n",
        expect![[r#"
        refused: --time-min 0: no limit is lowered to nothing; name a span, or leave it out
    "#]],
    );
}

#[test]
fn our_own_lines_are_the_flags_of_submit_and_win() {
    check(
        "#!/bin/sh\n#DURE --tenant=solar --name 'two words' --retries 2\n#DURE --members=2 --gpus-per-member=4 --array 0-9%3\n\
         #SBATCH -A fusion --gpus=64 --hold\n#DURE --env GREETING='a, b' --chdir /data\necho\n",
        expect![[r#"
            solar "two words" 2x4 models=[] cpu=0 mem=0 time=0s
            hold=true retries=2 priority="" array=Some((10, 3)) after=0 out="" err="" dir="/data" env=["GREETING=a, b"]
        "#]],
    );
}

#[test]
fn tasks_and_gpus_make_members() {
    check(
        "#SBATCH -A a -n 4 --gpus-per-task=2 -c 8\n",
        expect![[r#"
            a "" 4x2 models=[] cpu=8000 mem=0 time=0s
            hold=false retries=0 priority="" array=None after=0 out="" err="" dir="" env=[]
        "#]],
    );
    check(
        "#SBATCH -A a -N 2 --ntasks-per-node=8 --gpus-per-node=8 -c 4\n",
        expect![[r#"
            a "" 2x8 distinct models=[] cpu=32000 mem=0 time=0s
            hold=false retries=0 priority="" array=None after=0 out="" err="" dir="" env=["SLURM_NTASKS_PER_NODE=8"]
            note: a member is a whole node: start its tasks in the script (srun, mpirun, torchrun)
        "#]],
    );
    check(
        "#SBATCH -A a -N 2 -G 16\n",
        expect![[r#"
            a "" 2x8 distinct models=[] cpu=0 mem=0 time=0s
            hold=false retries=0 priority="" array=None after=0 out="" err="" dir="" env=[]
        "#]],
    );
    check(
        "#SBATCH -A a\n",
        expect![[r#"
            a "" 1x1 models=[] cpu=0 mem=0 time=0s
            hold=false retries=0 priority="" array=None after=0 out="" err="" dir="" env=[]
        "#]],
    );
}

#[test]
fn a_script_without_gpus_is_told_unless_the_command_line_asks_for_them() {
    let bare = read("#!/bin/sh\n#SBATCH -A a\n").expect("it is a script").draft;
    assert!(without_gpus(&bare).is_some_and(|note| note.starts_with("no GPUs are asked for")));
    let with = |given: Draft| without_gpus(&given.over(bare.clone()));
    assert_eq!(with(Draft { gpus: Some(4), ..Draft::default() }), None);
    assert_eq!(with(Draft { gpu_milli: Some(500), ..Draft::default() }), None);
}

#[test]
fn what_is_refused_is_refused_with_its_line() {
    let refused = |text: &str| read(text).expect_err("it is refused").to_string();
    let array = refused("#!/bin/sh\n#SBATCH -A a\n#SBATCH --array=1-10 -t 5\n#SBATCH -N 2\ntrue\n");
    assert!(array.starts_with("line 3: --array=1-10: \"1-10\": indices start at 0"), "{array}");
    let number = refused("#!/bin/sh\n#SBATCH -N 2 -c 4\n#SBATCH -c many\n");
    assert!(number.starts_with("line 3: --cpus-per-task=many: expected a whole number"), "{number}");
}

#[test]
fn nodes_and_elastic_sizes_are_asked_for_as_in_sbatch() {
    let text = "#!/bin/sh\n#SBATCH -N 4-16 --gpus-per-node=8 -C rack=r1&!old -w n[1-3],m -x n2 --exclusive --segment=4 --spread-job\n";
    let asked = read(text).expect("it is a script");
    let draft = Draft { tenant: Some("fusion".into()), script: Some(Vec::new()), ..asked.draft };
    let spec = draft.spec().expect("it is a job");
    let only = spec.constraints.expect("it asks for nodes");
    assert_eq!(spec.shape.map(|shape| (shape.members, shape.gpus_per_member)), Some((16, 8)));
    assert_eq!((only.min_members, only.segment_members, only.exclusive), (4, 4, true));
    assert_eq!((only.nodes.join(" "), only.exclude_nodes.join(" ")), ("n1 n2 n3 m".to_owned(), "n2".to_owned()));
    assert_eq!(
        only.labels.iter().map(|rule| (&*rule.key, rule.negated)).collect::<Vec<_>>(),
        [("rack", false), ("old", true)]
    );
    assert_eq!((only.spread, only.segment_level), (1, 3));
}

#[test]
fn instances_are_asked_for_as_slurm_names_them() {
    let of = |lines: &str| {
        let asked = read(&format!("#!/bin/sh\n#SBATCH {lines}\n")).expect("it is a script");
        let draft = Draft { tenant: Some("fusion".into()), script: Some(Vec::new()), ..asked.draft };
        let spec = draft.spec().expect("it is a job");
        let shape = spec.shape.expect("it has a shape");
        let level = if spec.required_level == 0 { "" } else { " on one node" };
        let distinct = if shape.distinct_nodes { " on nodes of their own" } else { "" };
        let models = spec.gpu_models.join(",");
        format!("{}x{} {}{level}{distinct} {models}", shape.members, shape.gpus_per_member, shape.mig_profile)
    };
    assert_eq!(of("--gres=gpu:1g.10gb:2"), "2x1 1g.10gb on one node ");
    assert_eq!(of("--gres=gpu:1g.10gb"), "1x1 1g.10gb ");
    assert_eq!(of("--gres=gpu:a100_3g.20gb:1 -N 3"), "3x1 3g.20gb on nodes of their own a100");
    assert_eq!(of("--gpus=h100_1g.10gb:5 -c 4"), "5x1 1g.10gb h100");
    assert_eq!(of("--gpus-per-task=2g.20gb:1 -n 4"), "4x1 2g.20gb ");
}

#[test]
fn what_would_make_another_job_is_refused_with_its_line() {
    for (line, why) in [
        (
            "#SBATCH --gpus-per-task=1g.10gb:2 -n 4",
            "--gpus-per-task: 2 MIG instances of 1g.10gb, and a member gets one",
        ),
        ("#SBATCH --gres=gpu:1g.10gb:2 -N 2", "and a member gets one: ask for all of them with --gpus"),
        ("#SBATCH --nodefile=n1", "line 2: --nodefile: files of nodes are not read: name them with --nodelist"),
        ("#SBATCH -w n[1", "--nodelist=n[1: \"n[1\" is no list of nodes"),
        ("#SBATCH -C a|b", "--constraint=a|b: \"a|b\": write key"),
        ("#SBATCH --nonsense", "line 2: --nonsense is no option of sbatch: remove the line"),
        ("#SBATCH nonsense", "line 2: \"nonsense\" is no option"),
        ("#SBATCH -t", "line 2: -t needs a value"),
        ("#SBATCH -t soon", "--time=soon: \"soon\" is no span of time"),
        ("#SBATCH --array=1-4", "--array=1-4: \"1-4\": indices start at 0"),
        (
            "#SBATCH --gres=shard:2",
            "--gres=shard:2: what a shard is differs from site to site: write #DURE --gpu-milli=500",
        ),
        ("#SBATCH -N 4-1", "--nodes=4-1: \"4-1\" is no number of members"),
        ("#SBATCH --hold=yes", "line 2: --hold takes no value"),
        ("#SBATCH -J 'open", "line 2: a quote (') is opened and not closed"),
        ("#DURE --gpu 3", "line 2: unexpected argument '--gpu' found"),
        ("#DURE --time soon", "line 2: invalid value 'soon' for '--time <SPAN>'"),
    ] {
        let err = read(&format!("#!/bin/sh\n{line}\n")).expect_err(line).to_string();
        assert!(err.contains(why), "{line}: {err}");
    }
}

#[test]
fn lines_that_only_look_like_ours_are_comments() {
    for line in ["#SBATCH", "##SBATCH --hold", "# SBATCH --hold", "#SBATCHX --hold", "#DUREX", " #SBATCH --hold"] {
        assert_eq!(read(line).map(|asked| asked.draft.hold), Ok(None), "{line}");
    }
}

#[test]
fn the_table_has_every_option_once_and_in_order() {
    let names: Vec<&str> = OPTIONS.iter().map(|opt| opt.long).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(names, sorted);
    let mut letters: Vec<char> = OPTIONS.iter().map(|opt| opt.short).filter(|letter| *letter != ' ').collect();
    letters.sort_unstable();
    let count = letters.len();
    letters.dedup();
    assert_eq!(letters.len(), count, "a letter is used twice");
}

/// A value that the reader of an honoured option takes.
fn example(long: &str) -> &'static str {
    match long {
        "array" => "0-3",
        "container-mounts" => "/data:/mnt:ro",
        "begin" => "now+1hour",
        "dependency" => "afterok:1",
        "gpus" | "gpus-per-node" | "gpus-per-task" | "nodes" | "ntasks" | "ntasks-per-node" | "switches" => "2",
        "gres" => "gpu:2",
        "mem" | "mem-per-cpu" | "mem-per-gpu" => "2G",
        "time" => "2:00:00",
        _ => "7",
    }
}

#[test]
fn every_option_meets_its_fate() {
    for opt in OPTIONS {
        let value = if opt.value == options::Value::None { String::new() } else { format!("={}", example(opt.long)) };
        let read = read(&format!("#SBATCH --{}{value}\n", opt.long));
        match opt.fate {
            options::Fate::Honoured => drop(read.unwrap_or_else(|err| panic!("--{}: {err}", opt.long))),
            options::Fate::Ignored(why) => {
                let warnings = read.unwrap_or_else(|err| panic!("--{}: {err}", opt.long)).warnings;
                assert!(warnings.iter().any(|warning| warning.contains(why)), "--{}: {warnings:?}", opt.long);
            }
            options::Fate::Refused(why) => {
                assert!(read.expect_err(opt.long).to_string().contains(why), "--{}", opt.long)
            }
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = read(&text);
    }

    #[test]
    fn no_directive_panics(lines in proptest::collection::vec("#(SBATCH|DURE) -{0,2}[a-zA-Z-]{0,12}[= ]?[0-9a-z:,%'\"+-]{0,12}", 0..6)) {
        let _ = read(&lines.join("\n"));
    }

    #[test]
    fn what_is_written_is_read(members in 1u32..64, gpus in 1u32..16, minutes in 1u64..10_000, size in 1u32..1_000, cap in 1u32..50) {
        let text = format!(
            "#!/bin/sh\n#SBATCH --account=a --nodes={members} --gres=gpu:{gpus} --time={minutes}\n#SBATCH --array=0-{}%{cap}\n",
            size - 1
        );
        let draft = Draft { script: Some(vec![b'#']), ..read(&text).expect("reads").draft };
        let spec = draft.spec().expect("a job");
        let shape = spec.shape.expect("always set");
        prop_assert_eq!((shape.members, shape.gpus_per_member, spec.time_limit_ms), (members, gpus, minutes * 60_000));
        prop_assert_eq!(spec.array.map(|array| (array.size, array.max_running)), Some((size, cap)));
    }
}
