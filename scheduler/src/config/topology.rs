//! The topology file: where nodes stand, checked as a graph.

use std::collections::BTreeMap;
use std::path::Path;

use dure_core::node::Location;
use dure_core::topology;
use serde::Deserialize;

use super::{ConfigError, read};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopologyFile {
    nodes: BTreeMap<String, Place>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Place {
    site: String,
    spine: String,
    leaf: String,
    nvlink: String,
}

/// Reads a topology file: `[nodes]`, then `name = { site = "..", spine = "..", leaf = "..", nvlink = ".." }`.
///
/// # Errors
/// What is wrong with it, by node and domain.
pub(super) fn load(path: &Path) -> Result<BTreeMap<String, Location>, ConfigError> {
    let malformed = |why: String| ConfigError::Malformed { path: path.to_owned(), why };
    let file: TopologyFile = toml::from_str(&read(path)?).map_err(|err| malformed(err.to_string()))?;
    let location = |place: Place| Location {
        site: place.site.into(),
        spine: place.spine.into(),
        leaf: place.leaf.into(),
        nvlink: place.nvlink.into(),
    };
    let nodes: BTreeMap<_, _> = file.nodes.into_iter().map(|(name, place)| (name, location(place))).collect();
    topology::check(nodes.iter().map(|(name, location)| (name.as_str(), location)))
        .map_err(|err| malformed(err.to_string()))?;
    Ok(nodes)
}
