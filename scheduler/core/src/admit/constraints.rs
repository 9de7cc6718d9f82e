//! What a draft asks of nodes and domains beside room: names become indices, contradictions are refused.

use crate::cluster::Cluster;
use crate::ids::{NodeIndex, PoolIndex};
use crate::input::{ConstraintsDraft, JobDraft};
use crate::rejected::Refusal;
use crate::request::{Constraints, LabelRule, Shape};

/// Most rules on labels of one job, and most values of one rule.
pub(crate) const MAX_LABEL_RULES: usize = 32;

/// Most nodes that one job names.
pub(crate) const MAX_NAMED_NODES: usize = 4096;

fn refuse(field: &'static str, value: impl ToString, why: &'static str) -> Refusal {
    Refusal::BadConstraint { field, value: value.to_string().into(), why }
}

/// The constraints of a draft.
pub(super) fn resolve(cluster: &Cluster, draft: &JobDraft, shape: &Shape) -> Result<Constraints, Refusal> {
    let only = &draft.only;
    check_labels(&only.labels)?;
    check_levels(draft)?;
    let exclude = nodes(cluster, &only.exclude)?;
    let include = nodes(cluster, &only.include)?;
    let left: Vec<NodeIndex> = include.iter().copied().filter(|node| exclude.binary_search(node).is_err()).collect();
    if left.is_empty() && !include.is_empty() {
        return Err(refuse("nodelist", only.include.join(","), "every node that it names is excluded as well"));
    }
    let is_equal = matches!(shape, Shape::Equal { .. });
    let members = shape.members();
    if let Some(segment) = only.segment {
        if segment.members == 0 || segment.members > members {
            return Err(refuse("segment", segment.members, "a segment has 1 to as many members as the gang"));
        }
        if !is_equal {
            return Err(refuse("segment", segment.members, "segments need members with as many GPUs each"));
        }
    }
    if let Some(least) = only.least {
        if least == 0 || least > members {
            return Err(refuse("min_members", least, "it must be 1 to as many members as the gang has at most"));
        }
        if !is_equal {
            return Err(refuse("min_members", least, "an elastic gang needs members with as many GPUs each"));
        }
    }
    let mut labels = only.labels.clone();
    labels.sort_unstable();
    labels.dedup();
    Ok(Constraints {
        labels: labels.into_boxed_slice(),
        include: left.into_boxed_slice(),
        exclude: if include.is_empty() { exclude.into_boxed_slice() } else { Box::default() },
        spread: only.spread.filter(|_| members > 1),
        segment: only.segment.filter(|_| members > 1),
        least: only.least.filter(|least| *least < members),
    })
}

/// The shape of a job that wants whole nodes: one node and all its GPUs for each member.
pub(super) fn whole_nodes(cluster: &Cluster, shape: Shape, pools: &[PoolIndex]) -> Result<Shape, Refusal> {
    let sizes = pools.iter().map(|pool| cluster.pool(*pool).gpus_per_node);
    let (most, fewest) = (sizes.clone().max().unwrap_or(0), sizes.min().unwrap_or(0));
    if most != fewest {
        let why = "its pools have nodes with different numbers of GPUs: name one GPU model";
        return Err(refuse("exclusive", format!("{fewest} to {most} GPUs"), why));
    }
    if shape.largest() > most {
        return Err(Refusal::MemberTooLarge { gpus: shape.largest().into(), largest: most.into() });
    }
    Ok(Shape::Equal { members: shape.members(), gpus: most })
}

fn check_labels(labels: &[LabelRule]) -> Result<(), Refusal> {
    if labels.len() > MAX_LABEL_RULES {
        return Err(refuse("constraint", labels.len(), "a job has at most 32 rules on labels"));
    }
    for rule in labels {
        if rule.key.is_empty() || rule.key.len() > super::MAX_NAME {
            return Err(refuse("constraint", &rule.key, "the name of a label has 1 to 128 characters"));
        }
        if rule.values.len() > MAX_LABEL_RULES || rule.values.iter().any(|value| value.len() > super::MAX_NAME) {
            return Err(refuse("constraint", &rule.key, "a rule has at most 32 values of at most 128 characters"));
        }
    }
    Ok(())
}

fn check_levels(draft: &JobDraft) -> Result<(), Refusal> {
    let ConstraintsDraft { spread, segment, .. } = &draft.only;
    if let Some(level) = spread {
        let why = match (draft.required, draft.preferred, segment) {
            (Some(required), ..) if *level >= required => Some("it must lie below the required level"),
            (_, Some(_), _) => Some("a gang that is spread cannot prefer to be close together"),
            (.., Some(_)) => Some("a gang that is spread has no segments"),
            (_, None, None) => None,
        };
        if let Some(why) = why {
            return Err(refuse("spread", format!("{level:?}").to_lowercase(), why));
        }
    }
    if let (Some(segment), Some(required)) = (segment, draft.required)
        && segment.level > required
    {
        return Err(refuse(
            "segment_level",
            format!("{:?}", segment.level).to_lowercase(),
            "it must not lie above the required level",
        ));
    }
    Ok(())
}

/// The nodes of these names, sorted, each once.
fn nodes(cluster: &Cluster, names: &[Box<str>]) -> Result<Vec<NodeIndex>, Refusal> {
    if names.len() > MAX_NAMED_NODES {
        return Err(refuse("nodelist", names.len(), "a job names at most 4096 nodes"));
    }
    let known = |name: &str| cluster.find_node(name).ok_or_else(|| Refusal::UnknownNode { name: name.into() });
    let mut found = names.iter().map(|name| known(name)).collect::<Result<Vec<_>, _>>()?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
