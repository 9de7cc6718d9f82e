//! What a request asks of nodes beside room, both ways.

use dure_core::ids::NodeIndex;
use dure_core::request::{Constraints, LabelRule, Level, Segment};
use dure_proto::journal::v1;

use super::fault::{Fault, within};
use super::words::{Word, or_none};

/// Nothing where nothing is asked.
pub(super) fn to_wire(only: &Constraints) -> Option<v1::Constraints> {
    let rule = |rule: &LabelRule| v1::LabelRule {
        key: (*rule.key).to_owned(),
        values: rule.values.iter().map(|value| (**value).to_owned()).collect(),
        negated: rule.negated,
    };
    let nodes = |list: &[NodeIndex]| list.iter().map(|node| node.0).collect();
    (*only != Constraints::default()).then(|| v1::Constraints {
        labels: only.labels.iter().map(rule).collect(),
        include: nodes(&only.include),
        exclude: nodes(&only.exclude),
        spread: or_none(only.spread),
        segment_members: only.segment.map_or(0, |segment| segment.members),
        segment_level: or_none(only.segment.map(|segment| segment.level)),
        least_members: only.least.unwrap_or(0),
    })
}

pub(super) fn from_wire(wire: v1::Constraints) -> Result<Constraints, Fault> {
    let rule = |rule: v1::LabelRule| LabelRule {
        key: rule.key.into(),
        values: rule.values.into_iter().map(Into::into).collect(),
        negated: rule.negated,
    };
    let nodes = |list: Vec<u32>| list.into_iter().map(NodeIndex).collect();
    let level = Level::optional("Constraints.segment_level", wire.segment_level)?;
    if level.is_some() {
        within("Constraints.segment_members", u64::from(wire.segment_members), 1, u64::from(u32::MAX))?;
    }
    Ok(Constraints {
        labels: wire.labels.into_iter().map(rule).collect(),
        include: nodes(wire.include),
        exclude: nodes(wire.exclude),
        spread: Level::optional("Constraints.spread", wire.spread)?,
        segment: level.map(|level| Segment { members: wire.segment_members, level }),
        least: (wire.least_members > 0).then_some(wire.least_members),
    })
}
