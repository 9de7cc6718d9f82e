//! Batch scripts: what their `#DURE` and `#SBATCH` lines ask for.
//!
//! Comes in: the text of a script. Goes out: a draft of the job and remarks on what was left aside. The lines end at the
//! first command. `#DURE` lines are the flags of `dure submit`; `#SBATCH` lines go through the table in `options`.
//! This part must never leave aside a line that changes where or whether the job may run: that is an error.

pub(crate) mod options;
pub(crate) mod table;
mod words;

use std::collections::BTreeMap;

use crate::{draft::Draft, submit::flags::JobFlags};

pub(crate) use options::Given;

/// What a script asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Asked {
    /// The job.
    pub(crate) draft: Draft,
    /// What was left aside, and why: one sentence each.
    pub(crate) warnings: Vec<String>,
    /// It has `#SBATCH` lines: it expects to run where it was submitted.
    pub(crate) is_sbatch: bool,
}

/// A line that cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub(crate) struct ScriptError {
    /// From 1.
    pub(crate) line: usize,
    /// What is wrong, and the remedy.
    pub(crate) why: String,
}

/// Reads the lines at the top of a script. A later line wins over an earlier one.
pub(crate) fn read(text: &str) -> Result<Asked, ScriptError> {
    let mut given = Given::default();
    let mut draft = Draft::default();
    let mut warnings = Vec::new();
    let (mut is_sbatch, mut last_sbatch) = (false, 1);
    // Where each option of sbatch stands.
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let failed = |why| ScriptError { line: index + 1, why };
        let line = line.trim_end();
        if let Some(rest) = directive(line, "#SBATCH") {
            (is_sbatch, last_sbatch) = (true, index + 1);
            let words = words::split(rest).map_err(failed)?;
            let before = given.clone();
            warnings.extend(given.read(&words).map_err(failed)?);
            lines.extend(given.since(&before).map(|name| (name, index + 1)));
        } else if let Some(rest) = directive(line, "#DURE") {
            let words = words::split(rest).map_err(failed)?;
            draft = JobFlags::of_words(&words).and_then(|flags| flags.draft()).map_err(failed)?.over(draft);
        } else if !line.trim_start().is_empty() && !line.trim_start().starts_with('#') {
            break;
        }
    }
    let wrong = |why: String| {
        let of_option = |(name, line): (&&str, &usize)| why.starts_with(&format!("--{name}=")).then_some(*line);
        ScriptError { line: lines.iter().find_map(of_option).unwrap_or(last_sbatch), why }
    };
    let (sbatch, more) = given.draft().map_err(wrong)?;
    warnings.extend(more);
    let draft = draft.over(sbatch);
    Ok(Asked { draft, warnings, is_sbatch })
}

/// What to say of a script that asks for no GPUs, with what the command line adds to it.
pub(crate) fn without_gpus(draft: &Draft) -> Option<String> {
    let in_whole = draft.gpus.is_some() || draft.gpus_per_member.is_some() || draft.shape.is_some();
    let asks_for_gpus = in_whole || draft.gpu_milli.is_some() || draft.mig.is_some();
    let note = "no GPUs are asked for: every member gets 1 (ask with --gpus or --gres=gpu:N)";
    (!asks_for_gpus).then(|| note.to_owned())
}

/// What follows the word at the start of the line.
fn directive<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    line.strip_prefix(word)?.strip_prefix([' ', '\t'])
}

#[cfg(test)]
mod tests;
