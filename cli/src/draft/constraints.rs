//! What a job asks of nodes beside room, as users write it.
//!
//! Comes in: `--constraint`, `--nodelist`, `--exclude`, `--exclusive`, `--spread`, `--segment`, from flags or from the
//! lines of a script. Goes out: the constraints of the API.

use dure_proto::v1::{self, LabelRule, TopologyLevel};

/// What is said of nodes; absent: not said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Only {
    pub(crate) labels: Option<Vec<LabelRule>>,
    pub(crate) nodes: Option<Vec<String>>,
    pub(crate) exclude: Option<Vec<String>>,
    pub(crate) exclusive: Option<bool>,
    pub(crate) spread: Option<TopologyLevel>,
    pub(crate) segment: Option<(u32, TopologyLevel)>,
}

impl Only {
    /// What this says, and where it says nothing, what `under` says.
    pub(crate) fn over(self, under: Only) -> Only {
        Only {
            labels: self.labels.or(under.labels),
            nodes: self.nodes.or(under.nodes),
            exclude: self.exclude.or(under.exclude),
            exclusive: self.exclusive.or(under.exclusive),
            spread: self.spread.or(under.spread),
            segment: self.segment.or(under.segment),
        }
    }

    /// Those of the API; none where nothing is said.
    pub(crate) fn into_wire(self, min_members: Option<u32>) -> Option<v1::Constraints> {
        if self == Only::default() && min_members.is_none() {
            return None;
        }
        let (segment_members, segment_level) = self.segment.unwrap_or_default();
        Some(v1::Constraints {
            labels: self.labels.unwrap_or_default(),
            nodes: self.nodes.unwrap_or_default(),
            exclude_nodes: self.exclude.unwrap_or_default(),
            exclusive: self.exclusive.unwrap_or_default(),
            spread: self.spread.unwrap_or_default().into(),
            segment_members,
            segment_level: segment_level.into(),
            min_members: min_members.unwrap_or_default(),
        })
    }
}

/// Reads rules on labels: `rack=r1,gen=(a|b),!old,ib`; sbatch's `&` joins them as well.
pub(crate) fn labels(text: &str) -> Result<Vec<LabelRule>, String> {
    text.split([',', '&']).map(|part| rule(part.trim()).map_err(|why| format!("{part:?}: {why}"))).collect()
}

fn rule(text: &str) -> Result<LabelRule, &'static str> {
    const HOW: &str = "write key, !key, key=value, key!=value or key=(one|other), joined by commas";
    let (text, mut negated) = text.strip_prefix('!').map_or((text, false), |rest| (rest, true));
    let (key, values) = match text.split_once('=') {
        None => (text, Vec::new()),
        Some((key, values)) => {
            let bare = values.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(values);
            (key, bare.split('|').map(str::to_owned).collect())
        }
    };
    let key = key.strip_suffix('!').inspect(|_| negated = !negated).unwrap_or(key);
    let is_plain = |text: &str| !text.contains(['(', ')', '|', '*', '[', ']', '=', ' ']);
    if key.is_empty() || !is_plain(key) || !values.iter().all(|value| is_plain(value)) {
        return Err(HOW);
    }
    Ok(LabelRule { key: key.to_owned(), values, negated })
}

/// Reads names of nodes: `n1,n[4-6,9]`.
pub(crate) fn nodes(text: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{text:?} is no list of nodes: write n1,n2 or n[1-4,7]");
    let mut names = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find([',', '[']).unwrap_or(rest.len());
        let prefix = &rest[..end];
        if !rest[end..].starts_with('[') {
            if prefix.is_empty() {
                return Err(wrong());
            }
            names.push(prefix.to_owned());
            rest = rest.get(end + 1..).unwrap_or_default();
            continue;
        }
        let (inside, after) = rest[end + 1..].split_once(']').ok_or_else(wrong)?;
        for range in inside.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let width = first.len();
            let (first, last) = (first.parse::<u32>(), last.parse::<u32>());
            let (Ok(first), Ok(last)) = (first, last) else { return Err(wrong()) };
            if last < first || last - first >= MOST_IN_RANGE {
                return Err(wrong());
            }
            names.extend((first..=last).map(|number| format!("{prefix}{number:0width$}")));
        }
        rest = match after.strip_prefix(',') {
            Some(rest) => rest,
            None if after.is_empty() => after,
            None => return Err(wrong()),
        };
    }
    if names.is_empty() { Err(wrong()) } else { Ok(names) }
}

/// Nodes of one range.
const MOST_IN_RANGE: u32 = 100_000;

/// Reads `4` or `4:nvlink`: groups of 4 members, each inside one domain of the level (a leaf when none is named).
pub(crate) fn segment(text: &str) -> Result<(u32, TopologyLevel), String> {
    let wrong = || format!("{text:?} is no segment: write 4, or 4:nvlink, 4:leaf, 4:spine");
    let (members, level) = text.split_once(':').unwrap_or((text, "leaf"));
    let members = members.parse().ok().filter(|members| *members > 0).ok_or_else(wrong)?;
    let level = match level {
        "node" => TopologyLevel::Node,
        "nvlink" => TopologyLevel::NvlinkDomain,
        "leaf" => TopologyLevel::Leaf,
        "spine" => TopologyLevel::Spine,
        "site" => TopologyLevel::Site,
        _ => return Err(wrong()),
    };
    Ok((members, level))
}

/// Reads `8` or `4-8`: members at least, if fewer will do, and at most.
pub(crate) fn members(text: &str) -> Result<(Option<u32>, u32), String> {
    let wrong = || format!("{text:?} is no number of members: write 8, or 4-8 for a gang that starts with fewer");
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number > 0).ok_or_else(wrong);
    match text.split_once('-') {
        None => Ok((None, number(text)?)),
        Some((least, most)) => {
            let (least, most) = (number(least)?, number(most)?);
            if least > most {
                return Err(wrong());
            }
            Ok(((least < most).then_some(least), most))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<Vec<String>, String> {
        let one = |rule: LabelRule| {
            format!("{}{}={}", if rule.negated { "not " } else { "" }, rule.key, rule.values.join("|"))
        };
        labels(text).map(|rules| rules.into_iter().map(one).collect())
    }

    #[test]
    fn rules_on_labels() {
        assert_eq!(shown("rack=r1,gen=(a|b)&!old"), Ok(vec!["rack=r1".into(), "gen=a|b".into(), "not old=".into()]));
        assert_eq!(shown("gen!=a,!gen!=b"), Ok(vec!["not gen=a".into(), "gen=b".into()]));
        for bad in ["", "a||b", "[rack1|rack2]", "rack*2", "=x", "a|b"] {
            assert!(labels(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lists_of_nodes() {
        assert_eq!(nodes("a,n[08-10,2],b").expect("good"), ["a", "n08", "n09", "n10", "n2", "b"]);
        for bad in ["", ",", "n[1-", "n[3-1]", "n[1]x", "n[a]"] {
            assert!(nodes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_of_gangs_and_segments() {
        assert_eq!((members("8"), members("4-8"), members("8-8")), (Ok((None, 8)), Ok((Some(4), 8)), Ok((None, 8))));
        assert!(members("8-4").is_err() && members("0").is_err() && members("4-").is_err());
        assert_eq!(segment("4"), Ok((4, TopologyLevel::Leaf)));
        assert_eq!(segment("2:nvlink"), Ok((2, TopologyLevel::NvlinkDomain)));
        assert!(segment("0").is_err() && segment("2:rack").is_err());
    }
}
