//! Whole domains in quotas: `--domains`, and what `dure quota show` says of them.

use dure_proto::v1::{DomainQuota, TopologyLevel, WholeDomains};

/// What the flag says.
pub(crate) fn said(text: &str) -> Result<DomainQuota, String> {
    if text == "none" {
        return Ok(DomainQuota { level: TopologyLevel::Node.into(), count: 0, nodes: 0 });
    }
    let wrong =
        || "expected LEVEL=COUNT or LEVEL=COUNTxNODES, as in leaf=4, or none; levels: node, nvlink, leaf, spine, site";
    let (level, rest) = text.split_once('=').ok_or_else(wrong)?;
    let level = LEVELS.iter().find(|(name, _)| *name == level).ok_or_else(wrong)?.1;
    let (count, nodes) = rest.split_once('x').unwrap_or((rest, "0"));
    let (count, nodes) = (count.parse().map_err(|_| wrong())?, nodes.parse().map_err(|_| wrong())?);
    Ok(DomainQuota { level: level.into(), count, nodes })
}

const LEVELS: [(&str, TopologyLevel); 5] = [
    ("node", TopologyLevel::Node),
    ("nvlink", TopologyLevel::NvlinkDomain),
    ("leaf", TopologyLevel::Leaf),
    ("spine", TopologyLevel::Spine),
    ("site", TopologyLevel::Site),
];

fn name(level: TopologyLevel) -> &'static str {
    LEVELS.iter().find(|(_, known)| *known == level).map_or("?", |(name, _)| name)
}

/// How a quota's domains can be typed; none: `none`.
pub(super) fn words(domains: Option<&DomainQuota>) -> String {
    let Some(domains) = domains.filter(|domains| domains.count > 0) else { return "none".to_owned() };
    let nodes = if domains.level() == TopologyLevel::Node { String::new() } else { format!("x{}", domains.nodes) };
    format!("{}={}{nodes}", name(domains.level()), domains.count)
}

/// What is promised, and how many are used.
pub(super) fn cells(domains: Option<&DomainQuota>, used: u32) -> Vec<String> {
    vec![words(domains), used.to_string()]
}

/// How it stands with a pool; where fewer are clean than are promised and not used, so many are short.
pub(super) fn line(pool: &str, domains: &WholeDomains) -> String {
    let WholeDomains { nodes, whole, clean, unused, .. } = domains;
    let kind = match domains.level() {
        TopologyLevel::Node => "whole nodes".to_owned(),
        level => format!("{} domains of {nodes} nodes", name(level)),
    };
    let counts = format!(
        "{pool}: {whole} {kind}, {clean} of them with nothing that stays; {unused} are promised to missions that do not use them"
    );
    match unused.saturating_sub(*clean) {
        0 => format!("{counts}\n"),
        short => format!("{counts}: {short} short until nodes come back or what lies in the way is over\n"),
    }
}
