//! The words of srun that mean something inside a member.
//!
//! Options that say where a step lies are honoured; those that only steer Slurm are left aside; one that is not known is
//! refused, since a guess at whether it takes a value could run the wrong program.

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) tasks: Option<u32>,
    pub(super) nodes: Option<u32>,
    pub(super) tasks_per_node: Option<u32>,
    pub(super) gpus_per_task: Option<u32>,
    pub(super) label: bool,
    /// A task that fails ends the step.
    pub(super) all_or_none: bool,
    /// As its user calls the step.
    pub(super) name: Option<String>,
    pub(super) chdir: Option<String>,
    pub(super) output: Option<String>,
    pub(super) error: Option<String>,
    pub(super) command: Vec<String>,
}

/// Options with a value that is left aside: the letter or a blank, the name.
const ASIDE: &[(char, &str)] = &[
    ('A', "account"),
    (' ', "accel-bind"),
    ('c', "cpus-per-task"),
    (' ', "cpu-bind"),
    (' ', "cpu-freq"),
    (' ', "cpus-per-gpu"),
    ('m', "distribution"),
    (' ', "export"),
    ('G', "gpus"),
    (' ', "gpu-bind"),
    (' ', "gpus-per-node"),
    (' ', "gres"),
    (' ', "hint"),
    ('i', "input"),
    (' ', "jobid"),
    (' ', "mem"),
    (' ', "mem-bind"),
    (' ', "mem-per-cpu"),
    (' ', "mem-per-gpu"),
    (' ', "mpi"),
    (' ', "network"),
    (' ', "ntasks-per-gpu"),
    ('p', "partition"),
    (' ', "propagate"),
    ('q', "qos"),
    (' ', "signal"),
    ('t', "time"),
    (' ', "time-min"),
    (' ', "threads-per-core"),
    ('W', "wait"),
];
/// Options without a value that are left aside.
const FLAGS: &[(char, &str)] = &[
    (' ', "exact"),
    (' ', "exclusive"),
    (' ', "overlap"),
    ('O', "overcommit"),
    (' ', "pty"),
    ('Q', "quiet"),
    ('s', "oversubscribe"),
    ('u', "unbuffered"),
    ('v', "verbose"),
    ('X', "disable-status"),
];
/// Options with a value that is honoured.
const VALUES: &[(char, &str)] = &[
    ('n', "ntasks"),
    ('N', "nodes"),
    (' ', "ntasks-per-node"),
    (' ', "gpus-per-task"),
    ('D', "chdir"),
    ('J', "job-name"),
    ('o', "output"),
    ('e', "error"),
];

impl Options {
    pub(super) fn parse(words: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            if word == "--" {
                options.command.extend(rest.by_ref().cloned());
            } else if !word.starts_with('-') || word == "-" {
                options.command.push(word.clone());
                options.command.extend(rest.by_ref().cloned());
            } else {
                options.option(word, &mut rest)?;
            }
        }
        if options.command.is_empty() { Err("no command was given".to_owned()) } else { Ok(options) }
    }

    fn option<'a>(&mut self, word: &str, rest: &mut impl Iterator<Item = &'a String>) -> Result<(), String> {
        let (letter, name, inline) = match word.strip_prefix("--") {
            Some(long) => match long.split_once('=') {
                Some((name, value)) => (' ', name, Some(value.to_owned())),
                None => (' ', long, None),
            },
            None => {
                let mut letters = word[1..].chars();
                let letter = letters.next().unwrap_or(' ');
                let value = letters.as_str().trim_start_matches('=');
                (letter, "", (!value.is_empty()).then(|| value.to_owned()))
            }
        };
        let named = |(short, long): &&(char, &str)| if letter == ' ' { *long == name } else { *short == letter };
        if letter == 'l' || name == "label" {
            self.label = true;
            return Ok(());
        }
        if letter == 'K' || name == "kill-on-bad-exit" {
            // As Slurm takes it: alone it is 1, and 0 takes it back.
            self.all_or_none = inline.as_deref() != Some("0");
            return Ok(());
        }
        if FLAGS.iter().any(|flag| named(&flag)) {
            return Ok(());
        }
        let mut value =
            || inline.clone().or_else(|| rest.next().cloned()).ok_or_else(|| format!("{word} needs a value"));
        if ASIDE.iter().any(|aside| named(&aside)) {
            return value().map(drop);
        }
        let (_, known) = VALUES.iter().find(named).ok_or_else(|| {
            format!("{word}: not known inside a job of Dure; write it as part of the command, after --")
        })?;
        let value = value()?;
        let number = || value.parse::<u32>().map_err(|_| format!("{word} {value}: expected a whole number"));
        match *known {
            "ntasks" => self.tasks = Some(number()?),
            // A range asks for what there is.
            "nodes" => self.nodes = value.split('-').next_back().and_then(|last| last.parse().ok()),
            "ntasks-per-node" => self.tasks_per_node = Some(number()?),
            "gpus-per-task" => self.gpus_per_task = Some(number()?),
            "chdir" => self.chdir = Some(value),
            "job-name" => self.name = Some(value),
            "output" => self.output = Some(value),
            _ => self.error = Some(value),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_begins_at_the_first_word_that_is_no_option() {
        let options = parse("-N2 --ntasks=8 -l --mpi pmix --cpu-bind=none -u python train.py -n 4").expect("parses");
        assert_eq!((options.nodes, options.tasks, options.label), (Some(2), Some(8), true));
        assert_eq!(options.command, ["python", "train.py", "-n", "4"]);
        assert_eq!(parse("-n 1 -- -odd").expect("parses").command, ["-odd"]);
        assert!(parse("--multi-prog x").expect_err("not known").contains("--multi-prog: not known"));
        assert!(parse("-n").expect_err("no value").contains("-n needs a value"));
        assert!(parse("-n 2").expect_err("no command").contains("no command"));
    }
}
