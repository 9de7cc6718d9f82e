//! Signals of a job's own: `USR1@5m`.
//!
//! Comes in: words of flags and of sbatch's `--signal`. Goes out: numbers and spans of the API. Names are those of
//! signal(7), with or without `SIG`; numbers are taken too.

use dure_proto::v1;

use crate::span::UserSpan;

/// Names that jobs use, with their numbers on Linux.
const NAMES: &[(&str, u32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("USR1", 10),
    ("USR2", 12),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("URG", 23),
    ("XCPU", 24),
    ("WINCH", 28),
    ("PWR", 30),
];
/// The highest signal there is.
const LAST: u32 = 64;
/// What sbatch takes when `--signal` says no time.
const SBATCH_BEFORE: UserSpan = UserSpan(60_000);

/// A signal and a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignalAt {
    signal: u32,
    span: Option<UserSpan>,
}

/// What a job is sent of its own wish; absent: not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signals {
    pub(crate) stop: Option<SignalAt>,
    pub(crate) limit: Option<SignalAt>,
    pub(crate) hook: Option<String>,
}

impl Signals {
    pub(crate) fn over(self, under: Self) -> Self {
        Self { stop: self.stop.or(under.stop), limit: self.limit.or(under.limit), hook: self.hook.or(under.hook) }
    }

    pub(crate) fn to_wire(&self) -> Option<v1::Signals> {
        let ms = |at: Option<SignalAt>| at.and_then(|at| at.span).map_or(0, |span| span.0);
        let signal = |at: Option<SignalAt>| at.map_or(0, |at| at.signal);
        let shell = |text: &String| ["/bin/sh", "-c", text].map(str::to_owned).into();
        (*self != Self::default()).then(|| v1::Signals {
            stop: signal(self.stop),
            stop_ms: ms(self.stop),
            limit: signal(self.limit),
            limit_before_ms: ms(self.limit),
            hook: self.hook.as_ref().map(shell).unwrap_or_default(),
        })
    }
}

/// `USR1`, `SIGUSR1@30s`, `10@5m`.
pub(crate) fn parse(text: &str) -> Result<SignalAt, String> {
    let (name, span) = match text.split_once('@') {
        Some((name, span)) => (name, Some(span.parse::<UserSpan>().map_err(|err| err.to_string())?)),
        None => (text, None),
    };
    Ok(SignalAt { signal: number(name)?, span })
}

/// `USR1@5m`: a span must be said.
pub(crate) fn parse_before(text: &str) -> Result<SignalAt, String> {
    let at = parse(text)?;
    if at.span.is_none() {
        return Err(format!("{text:?}: say how long before the time limit, as in {text}@5m"));
    }
    Ok(at)
}

/// sbatch's `[{R|B}:]SIG[@SECONDS]`. Here every process that handles the signal gets it, the script's shell too.
pub(crate) fn parse_sbatch(text: &str) -> Result<SignalAt, String> {
    let text = text.trim_start_matches(['R', 'B', ':']);
    let (name, span) = match text.split_once('@') {
        None => (text, SBATCH_BEFORE),
        Some((name, seconds)) => {
            let seconds: u64 = seconds.parse().map_err(|_| "expected SIGNAL@SECONDS".to_owned())?;
            (name, UserSpan(seconds.saturating_mul(1_000)))
        }
    };
    Ok(SignalAt { signal: number(name)?, span: Some(span) })
}

fn number(name: &str) -> Result<u32, String> {
    let refuse = || {
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        format!(
            "{name:?} is no signal that a job can ask for: write a number from 1 to {LAST}, or {}",
            names.join(", ")
        )
    };
    if let Ok(number) = name.parse::<u32>() {
        return if (1..=LAST).contains(&number) { Ok(number) } else { Err(refuse()) };
    }
    let plain = name.strip_prefix("SIG").unwrap_or(name);
    NAMES.iter().find(|(name, _)| *name == plain).map(|(_, number)| *number).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_spans() {
        let at = |signal, ms: u64| SignalAt { signal, span: (ms > 0).then_some(UserSpan(ms)) };
        assert_eq!(parse("USR1"), Ok(at(10, 0)));
        assert_eq!(parse("SIGUSR2@30s"), Ok(at(12, 30_000)));
        assert_eq!(parse_before("10@5m"), Ok(at(10, 300_000)));
        assert_eq!(parse_sbatch("B:TERM@120"), Ok(at(15, 120_000)));
        assert_eq!(parse_sbatch("USR1"), Ok(at(10, 60_000)));
        assert!(parse("NOPE").expect_err("no signal").contains("is no signal that a job can ask for"));
        assert!(parse("65").is_err() && parse("0").is_err());
        assert!(parse_before("USR1").expect_err("no span").contains("USR1@5m"));
    }
}
