//! Which tasks of a step lie on this member, and what they are told.
//!
//! Comes in: options and the member's place in its gang. Goes out: tasks with their variables. Pure. Ranks run over the
//! members in order (block distribution, as Slurm's default).

use std::collections::BTreeMap;

use super::options::Options;

/// The member's place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Allocation {
    pub(super) member: u32,
    pub(super) members: u32,
    /// Tasks of each member that the script has asked for.
    pub(super) tasks_per_node: Option<u32>,
    pub(super) gpus: Vec<String>,
}

/// One task on this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) rank: u32,
    pub(super) env: BTreeMap<String, String>,
}

impl Allocation {
    pub(super) fn of_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let number = |name: &str| {
            let value = get(name).ok_or_else(|| format!("{name} is not set: srun works inside a job of Dure only"))?;
            value.parse::<u32>().map_err(|_| format!("{name} = {value}: no number"))
        };
        let gpus = get("CUDA_VISIBLE_DEVICES").unwrap_or_default();
        Ok(Self {
            member: number("DURE_MEMBER")?,
            members: number("DURE_MEMBERS")?,
            tasks_per_node: get("SLURM_NTASKS_PER_NODE").and_then(|value| value.parse().ok()),
            gpus: gpus.split(',').filter(|gpu| !gpu.is_empty()).map(str::to_owned).collect(),
        })
    }
}

/// Members that a step lies on: so many, from the first.
pub(super) fn members(options: &Options, allocation: &Allocation) -> Result<u32, String> {
    let members = allocation.members;
    let asked = options.nodes.or(options.tasks.filter(|_| options.tasks_per_node.is_none()).map(|n| n.min(members)));
    let nodes = asked.unwrap_or(members);
    if nodes == 0 || nodes > members {
        return Err(format!("{nodes} nodes are asked for, the job has {members} members"));
    }
    Ok(nodes)
}

/// The tasks on this member; none when the step does not reach it.
pub(super) fn tasks(options: &Options, allocation: &Allocation) -> Result<Vec<Task>, String> {
    let Allocation { member, .. } = *allocation;
    let nodes = members(options, allocation)?;
    let per_node = options.tasks_per_node.or(allocation.tasks_per_node).unwrap_or(1);
    let total = options.tasks.unwrap_or(per_node.saturating_mul(nodes));
    if total < nodes {
        return Err(format!("{total} tasks cannot lie on {nodes} nodes: ask for as many"));
    }
    let of = |node: u32| total / nodes + u32::from(node < total % nodes);
    if member >= nodes {
        return Ok(Vec::new());
    }
    let first: u32 = (0..member).map(of).sum();
    let here = of(member);
    let layout: Vec<String> = (0..nodes).map(|node| of(node).to_string()).collect();
    let task = |local: u32| {
        let mut env = BTreeMap::new();
        let mut set = |names: &[&str], value: String| {
            names.iter().for_each(|name| drop(env.insert((*name).to_owned(), value.clone())));
        };
        set(&["SLURM_PROCID", "RANK"], (first + local).to_string());
        set(&["SLURM_LOCALID", "LOCAL_RANK"], local.to_string());
        set(&["SLURM_NTASKS", "SLURM_NPROCS", "SLURM_STEP_NUM_TASKS", "WORLD_SIZE"], total.to_string());
        set(&["LOCAL_WORLD_SIZE"], here.to_string());
        set(&["SLURM_NODEID", "NODE_RANK"], member.to_string());
        set(&["SLURM_STEP_NUM_NODES", "SLURM_NNODES"], nodes.to_string());
        set(&["SLURM_TASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE"], layout.join(","));
        if let Some(gpus) = options.gpus_per_task {
            let (from, to) = ((local * gpus) as usize, ((local + 1) * gpus) as usize);
            let own = allocation.gpus.get(from..to).ok_or_else(|| {
                format!("{here} tasks with {gpus} GPUs each: this member has {}", allocation.gpus.len())
            })?;
            set(&["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"], own.join(","));
        }
        Ok(Task { rank: first + local, env })
    };
    (0..here).map(task).collect()
}

/// Names of a node list: `a,b` and `n[1-3,7]`, leading zeros kept.
pub(super) fn expand(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        let comma = rest.find(',').unwrap_or(rest.len());
        let (Some(open), Some(close)) = (rest.find('['), rest.find(']')) else {
            names.push(rest[..comma].to_owned());
            rest = rest[comma..].trim_start_matches(',');
            continue;
        };
        if comma < open || close < open {
            names.push(rest[..comma].to_owned());
            rest = rest[comma..].trim_start_matches(',');
            continue;
        }
        let end = rest[close..].find(',').map_or(rest.len(), |at| close + at);
        let (head, tail) = (&rest[..open], &rest[close + 1..end]);
        for part in rest[open + 1..close].split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.parse::<u32>(), last.parse::<u32>()) {
                (Ok(from), Ok(to)) if to >= from && to - from < 65_536 => {
                    names.extend((from..=to).map(|n| format!("{head}{n:0width$}{tail}", width = first.len())));
                }
                _ => names.push(format!("{head}{part}{tail}")),
            }
        }
        rest = rest[end..].trim_start_matches(',');
    }
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(options: &Options, members: u32, tasks_per_node: Option<u32>) -> Vec<Vec<u32>> {
        let of = |member| {
            let gpus = ["a", "b", "c", "d"].map(str::to_owned).into();
            let allocation = Allocation { member, members, tasks_per_node, gpus };
            tasks(options, &allocation).expect("fits").iter().map(|task| task.rank).collect()
        };
        (0..members).map(of).collect()
    }

    #[test]
    fn every_rank_lies_on_one_member() {
        assert_eq!(ranks(&Options::default(), 3, None), [[0], [1], [2]]);
        assert_eq!(ranks(&Options::default(), 2, Some(2)), [[0, 1], [2, 3]]);
        let five = Options { tasks: Some(5), ..Options::default() };
        assert_eq!(ranks(&five, 2, None), [vec![0, 1, 2], vec![3, 4]]);
        let one = Options { nodes: Some(1), tasks: Some(1), ..Options::default() };
        assert_eq!(ranks(&one, 3, Some(8)), [vec![0], vec![], vec![]]);
        let few = Options { tasks: Some(1), ..Options::default() };
        assert_eq!(ranks(&few, 2, None), [vec![0], vec![]]);
    }

    #[test]
    fn tasks_take_their_share_of_the_gpus() {
        let options = Options { tasks_per_node: Some(2), gpus_per_task: Some(2), ..Options::default() };
        let gpus: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        let allocation = Allocation { member: 1, members: 2, tasks_per_node: None, gpus };
        let tasks = tasks(&options, &allocation).expect("fits");
        let seen: Vec<&str> = tasks.iter().map(|task| task.env["CUDA_VISIBLE_DEVICES"].as_str()).collect();
        assert_eq!(seen, ["a,b", "c,d"]);
        assert_eq!((tasks[1].env["SLURM_PROCID"].as_str(), tasks[1].env["LOCAL_RANK"].as_str()), ("3", "1"));
        let greedy = Options { gpus_per_task: Some(3), ..options };
        let why = super::tasks(&greedy, &Allocation { members: 2, gpus: allocation.gpus, ..Allocation::default() });
        assert!(why.expect_err("too many").contains("this member has 4"));
    }

    #[test]
    fn node_lists_are_expanded() {
        assert_eq!(expand("n0,n1"), ["n0", "n1"]);
        assert_eq!(expand("gpu[08-10,12],x"), ["gpu08", "gpu09", "gpu10", "gpu12", "x"]);
        assert_eq!(expand(""), Vec::<String>::new());
    }
}
