//! `dure nodes` and `dure node cordon | drain | resume | confirm-dead`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use dure_proto::v1::{self, GetNodeRequest, ListNodesRequest, Node, NodeActionRequest, PageRequest};

use crate::{
    context::Context, draft::constraints, failure::Failure, phase, reservations, show::Out, span, submit, when,
};

/// The largest page of a listing.
const PAGE: u32 = 1_000;

/// List nodes, or show one
#[derive(Debug, Default, Args)]
pub(crate) struct NodesArgs {
    /// One node, with its GPUs and what runs there
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Nodes of this pool
    #[arg(long)]
    pool: Option<String>,
    /// Nodes under this leaf
    #[arg(long)]
    leaf: Option<String>,
}

/// What to do with a node.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Start nothing new there
    Cordon(NodeTarget),
    /// Cordon it and wait for what runs there to end
    Drain {
        #[command(flatten)]
        target: NodeTarget,
        /// Stop what runs there and queue it again; with --at in time before
        #[arg(long)]
        evict: bool,
        /// Not now but then; until then only what is over by then starts there (dure reservation shows and cancels it)
        #[arg(long, value_name = "TIME", value_parser = when::moment)]
        at: Option<u64>,
    },
    /// Open it again
    Resume(NodeTarget),
    /// Your word that a lost node runs nothing any more: it was switched off
    ConfirmDead(NodeTarget),
}

/// Which nodes, and why.
#[derive(Debug, Args)]
pub(crate) struct NodeTarget {
    /// The nodes, as n1 or n[1-4]
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

/// `dure nodes [NAME]`.
pub(crate) async fn show(args: NodesArgs, context: &Context, out: Out) -> Result<(), Failure> {
    let mut client = context.nodes().await?;
    if let Some(name) = args.name {
        let node = client.get(GetNodeRequest { name }).await.map_err(|status| context.refused(status))?.into_inner();
        return out.answer("Node", &node, || node_text(&node, when::now_ms(), out));
    }
    let mut request = ListNodesRequest {
        page: None,
        pool: args.pool.unwrap_or_default(),
        leaf: args.leaf.unwrap_or_default(),
        with_telemetry: false,
    };
    let mut all = v1::ListNodesResponse::default();
    loop {
        request.page = Some(PageRequest { page_size: PAGE, page_token: std::mem::take(&mut all.next_page_token) });
        let page = client.list(request.clone()).await.map_err(|status| context.refused(status))?.into_inner();
        all.nodes.extend(page.nodes);
        all.position = page.position;
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    all.nodes.sort_by_cached_key(|node| natural(&node.name));
    out.answer("ListNodesResponse", &all, || nodes_table(&all.nodes, when::now_ms(), out))
}

/// Orders names as people do: n2 before n10.
fn natural(name: &str) -> Vec<(String, u64, String)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        parts.push((word.to_owned(), number.parse().unwrap_or(u64::MAX), number.to_owned()));
        rest = tail;
    }
    parts
}

fn nodes_table(nodes: &[Node], now_ms: u64, out: Out) -> String {
    if nodes.is_empty() {
        return "no nodes: start an agent on each (dure agent --config FILE)".to_owned();
    }
    let mut rows = out.table(&["node", "state", "pool", "gpus>", "free>", "bad>", "jobs>", "place", "heard>"]);
    for node in nodes {
        rows.row([
            node.name.clone(),
            state(node).to_owned(),
            node.pool.clone(),
            node.gpus.to_string(),
            node.gpus_free.to_string(),
            node.gpus_bad.to_string(),
            node.jobs.len().to_string(),
            place(node),
            when::age(node.last_heard_ms, now_ms),
        ]);
    }
    let (gpus, free) = nodes.iter().fold((0, 0), |(gpus, free), node| (gpus + node.gpus, free + node.gpus_free));
    format!("{}{} nodes, {gpus} GPUs, {free} free\n", rows.text(), nodes.len())
}

fn state(node: &Node) -> &'static str {
    match (node.state(), node.draining, node.cordoned) {
        (v1::NodeState::Ready, true, _) => "draining",
        (v1::NodeState::Ready, false, true) => "cordoned",
        (v1::NodeState::Ready, false, false) if maintained(node) => "maintenance",
        (v1::NodeState::Ready, false, false) if node.bookings.iter().any(|booking| booking.begun) => "reserved",
        (v1::NodeState::Ready, false, false) if node.spare => "spare",
        (state, _, _) => phase::node_state(state),
    }
}

fn maintained(node: &Node) -> bool {
    node.bookings.iter().any(|booking| booking.begun && booking.maintenance)
}

fn place(node: &Node) -> String {
    let parts = [&node.site, &node.spine, &node.leaf, &node.nvlink_domain];
    parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("/")
}

fn node_text(node: &Node, now_ms: u64, out: Out) -> String {
    let mut text = format!(
        "node:       {} ({})\npool:       {}, {} GPUs, {} free, {} bad\nplace:      {}\nCPUs:       {}, memory {} GiB\nagent:      {} {}, heard {} ago\nboot:       {}\n",
        node.name,
        state(node),
        node.pool,
        node.gpus,
        node.gpus_free,
        node.gpus_bad,
        place(node),
        node.cpu_milli / 1_000,
        node.memory_mib / 1_024,
        node.agent_version,
        if node.connected { "connected" } else { "not connected" },
        when::age(node.last_heard_ms, now_ms),
        node.boot_id,
    );
    if !node.labels.is_empty() {
        let mut labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        labels.sort_unstable();
        text.push_str(&format!("labels:     {}\n", labels.join(" ")));
    }
    text.push_str(&(reservations::of_node(&node.bookings) + &instances(node) + &unknown(node)));
    if let Some(telemetry) = &node.telemetry {
        let mut rows = out.table(&[
            "gpu>",
            "model",
            "health",
            "util>",
            "memory MiB>",
            "power W>",
            "temp C>",
            "sm MHz>",
            "ecc c/u>",
            "processes>",
        ]);
        for gpu in &telemetry.gpus {
            rows.row([
                gpu.index.to_string(),
                gpu.model.clone(),
                if gpu.health_reason.is_empty() {
                    gpu.health.clone()
                } else {
                    format!("{}: {}", gpu.health, gpu.health_reason)
                },
                format!("{}%", gpu.utilisation),
                format!("{}/{}", gpu.memory_used_mib, gpu.memory_total_mib),
                (gpu.power_mw / 1_000).to_string(),
                gpu.temperature_c.to_string(),
                gpu.sm_clock_mhz.to_string(),
                format!("{}/{}", gpu.ecc_corrected, gpu.ecc_uncorrected),
                gpu.processes.len().to_string(),
            ]);
        }
        text.push_str(&format!(
            "measured {} ago:\n{}",
            span::human(now_ms.saturating_sub(telemetry.sampled_ms)),
            rows.text()
        ));
    }
    if !node.jobs.is_empty() {
        let mut rows = out.table(&["job>", "attempt>", "member>", "gpus"]);
        for job in &node.jobs {
            let gpus = phase::gpus(&job.gpus, job.gpu_milli, job.mig.as_ref());
            rows.row([job.job_id.to_string(), job.attempt.to_string(), job.member.to_string(), gpus]);
        }
        text.push_str(&rows.text());
    }
    text
}

/// What runs there and the journal does not know, and how to be rid of it.
fn unknown(node: &Node) -> String {
    let name = |key: &v1::LeaseKey| format!("job {} attempt {} member {}", key.job_id, key.attempt, key.member);
    let names: Vec<String> = node.unknown_leases.iter().map(name).collect();
    if names.is_empty() {
        return String::new();
    }
    format!(
        "unknown:    {} (not in the journal: nobody ends them, and their GPUs are kept; end their processes on the node, or \
         restart it)\n",
        names.join(", ")
    )
}

/// What its GPUs are cut into, a line for each GPU, and how many of the instances are held.
fn instances(node: &Node) -> String {
    let mut by_gpu: BTreeMap<u32, Vec<&v1::MigSlice>> = BTreeMap::new();
    for mig in &node.mig {
        by_gpu.entry(mig.gpu).or_default().extend(&mig.slice);
    }
    let line = |(gpu, slices): (&u32, &Vec<&v1::MigSlice>)| {
        let named: Vec<String> = slices.iter().map(|mig| format!("{} at {}", mig.profile, mig.first_slice)).collect();
        let held = node.jobs.iter().filter(|job| job.mig.is_some() && job.gpus == [*gpu]).count();
        format!("MIG:        GPU {gpu}: {} ({held} of {} held)\n", named.join(", "), slices.len())
    };
    by_gpu.iter().map(line).collect()
}

/// `dure node ...`.
pub(crate) async fn act(command: NodeCommand, context: &Context, out: Out) -> Result<(), Failure> {
    let mut client = context.nodes().await?;
    let (target, evict, at) = match &command {
        NodeCommand::Drain { target, evict, at } => (target, *evict, *at),
        NodeCommand::Cordon(target) | NodeCommand::Resume(target) | NodeCommand::ConfirmDead(target) => {
            (target, false, None)
        }
    };
    let at_ms = at.unwrap_or(0);
    let named: Result<Vec<_>, _> = target.names.iter().map(|names| constraints::nodes(names)).collect();
    for name in named.map_err(Failure::Usage)?.concat() {
        let request_id = submit::request_id()?;
        let reason = target.reason.clone();
        let action = NodeActionRequest { request_id: request_id.clone(), name: name.clone(), reason: reason.clone() };
        let answer = match command {
            NodeCommand::Cordon(_) => client.cordon(action).await,
            NodeCommand::Drain { .. } => {
                client.drain(v1::DrainRequest { request_id, name, reason, evict, at_ms }).await
            }
            NodeCommand::Resume(_) => client.resume(action).await,
            NodeCommand::ConfirmDead(_) => client.confirm_dead(action).await,
        };
        let node = answer.map_err(|status| context.refused(status))?.into_inner();
        out.answer("Node", &node, || {
            let jobs = node.jobs.len();
            let when = at.map(|at| format!("; it is drained from {} on", when::shown(at))).unwrap_or_default();
            format!("node {} is {}, {jobs} jobs run there{when}", node.name, state(&node))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn names_in_the_order_of_people() {
        let mut names = ["n10", "n2", "gpu-b-1", "n2a", "n02", "gpu-a-11", "gpu-a-9", ""];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(names, ["", "gpu-a-9", "gpu-a-11", "gpu-b-1", "n02", "n2", "n2a", "n10"]);
    }

    #[test]
    fn a_list_of_nodes() {
        let nodes = [
            Node {
                name: "n0".into(),
                state: 1,
                pool: "h200".into(),
                gpus: 8,
                gpus_free: 3,
                leaf: "l0".into(),
                last_heard_ms: 9_000,
                ..Node::default()
            },
            Node {
                name: "n1".into(),
                state: 1,
                cordoned: true,
                draining: true,
                pool: "h200".into(),
                gpus: 8,
                site: "s".into(),
                leaf: "l0".into(),
                ..Node::default()
            },
            Node { name: "n2".into(), state: 3, cordoned: true, gpus: 8, gpus_bad: 1, ..Node::default() },
        ];
        expect![[r#"
            NODE  STATE     POOL  GPUS  FREE  BAD  JOBS  PLACE  HEARD
            n0    ready     h200     8     3    0     0  l0      1.0s
            n1    draining  h200     8     0    0     0  s/l0       -
            n2    lost               8     0    1     0             -
            3 nodes, 24 GPUs, 3 free
        "#]]
        .assert_eq(&nodes_table(&nodes, 10_000, Out::plain()));
    }
}
