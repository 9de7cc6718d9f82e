//! File names with placeholders, as batch scripts write them.
//!
//! Comes in: `%j`-style patterns. Goes out: paths. Unknown placeholders stay as they are, so that no name is guessed.

use std::path::{Path, PathBuf};

use crate::model::{Launch, MemberId};

/// Expands %j (job), %A (array's job), %a (array index), %r (member), %x (job's name), %N (node), %t (as %r), %%.
/// A relative path is relative to `workdir`.
pub(crate) fn expand(pattern: &str, id: MemberId, launch: &Launch, node: &str, workdir: &Path) -> PathBuf {
    let mut name = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            name.push(c);
            continue;
        }
        match rest.next() {
            Some('%') | None => name.push('%'),
            Some('j') => name.push_str(&id.job.to_string()),
            Some('A') if launch.array_job_id != 0 => name.push_str(&launch.array_job_id.to_string()),
            Some('A') => name.push_str(&id.job.to_string()),
            Some('a') => name.push_str(&launch.array_index.unwrap_or(0).to_string()),
            Some('r' | 't') => name.push_str(&id.member.to_string()),
            Some('x') => name.push_str(&launch.job_name.replace('/', "_")),
            Some('N') => name.push_str(node),
            Some(other) => name.extend(['%', other]),
        }
    }
    workdir.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_become_the_members_own_numbers() {
        let id = MemberId { job: 17, attempt: 2, member: 3 };
        let launch = Launch { job_name: "a/b".to_owned(), array_job_id: 9, array_index: Some(4), ..Launch::default() };
        let expand = |pattern: &str| expand(pattern, id, &launch, "n0", Path::new("/w")).display().to_string();
        assert_eq!(expand("out-%j-%A_%a.%r"), "/w/out-17-9_4.3");
        assert_eq!(expand("/logs/%x.%N.%t%%"), "/logs/a_b.n0.3%");
        assert_eq!(expand("%q%"), "/w/%q%");
    }
}
