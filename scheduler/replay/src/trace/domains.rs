//! Whole domains as text: `leaf=4`, or with the nodes without which one does not count, `leaf=4x32`.

use dure_core::input::DomainsDraft;
use dure_core::request::Level;

/// The levels by their names.
const LEVELS: [(&str, Level); 5] = [
    ("node", Level::Node),
    ("nvlink", Level::Nvlink),
    ("leaf", Level::Leaf),
    ("spine", Level::Spine),
    ("site", Level::Site),
];

/// Reads whole domains; none where it is another text.
pub fn read_domains(text: &str) -> Option<DomainsDraft> {
    let (level, rest) = text.split_once('=')?;
    let level = LEVELS.iter().find(|(name, _)| *name == level)?.1;
    let (count, nodes) = rest.split_once('x').map_or((rest, None), |(count, nodes)| (count, Some(nodes)));
    let nodes = nodes.map(str::parse::<u32>).transpose().ok()?;
    Some(DomainsDraft { level, count: count.parse().ok()?, nodes })
}

/// As `read_domains` reads them.
pub fn write_domains(domains: DomainsDraft) -> String {
    let DomainsDraft { level, count, nodes } = domains;
    let name = LEVELS.iter().find(|(_, known)| *known == level).map_or("", |(name, _)| name);
    // A node is one node.
    let nodes = nodes.filter(|_| level != Level::Node).map(|nodes| format!("x{nodes}")).unwrap_or_default();
    format!("{name}={count}{nodes}")
}
