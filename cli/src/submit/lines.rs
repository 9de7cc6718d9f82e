//! `--file jobs.jsonl`: one job per line, as a JSON object whose fields are the long flags of `dure submit`.
//!
//! `{"tenant": "fusion", "name": "a", "gpus": "8", "time": "2h", "script": "#!/bin/sh\nhostname\n"}`; instead of
//! `script`, `command` is a list of words. Strings may be numbers. `depend` may name another line: `afterok:+0`.

use serde_json::{Map, Value};

use super::flags::JobFlags;
use crate::draft::Draft;

/// Reads all lines; an error names the line and the field.
pub(crate) fn read(text: &str) -> Result<Vec<Draft>, String> {
    let mut drafts = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let draft = job(line).map_err(|why| format!("line {}: {why}", index + 1))?;
        drafts.push(draft);
    }
    Ok(drafts)
}

fn job(line: &str) -> Result<Draft, String> {
    let fields: Map<String, Value> = serde_json::from_str(line).map_err(|err| err.to_string())?;
    let mut words = Vec::new();
    let mut script = None;
    let mut args = Vec::new();
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("script", Value::String(text)) => script = Some(text.into_bytes()),
            ("command" | "args", Value::Array(list)) => {
                args = list.iter().map(|word| scalar(&name, word)).collect::<Result<_, _>>()?;
            }
            ("env", Value::Object(variables)) => {
                for (variable, value) in variables {
                    words.push(format!("--env={variable}={}", scalar("env", &value)?));
                }
            }
            ("script" | "command" | "args" | "env", _) => {
                return Err(format!("{name}: script is a string, command a list, env an object"));
            }
            (_, Value::Null | Value::Bool(false)) => {}
            (_, Value::Bool(true)) => words.push(format!("--{name}")),
            (_, value) => words.push(format!("--{name}={}", scalar(&name, &value)?)),
        }
    }
    let draft = JobFlags::of_words(&words)?.draft()?;
    Ok(Draft { script, args, ..draft })
}

fn scalar(name: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Array(list) => {
            let words: Result<Vec<String>, String> = list.iter().map(|item| scalar(name, item)).collect();
            Ok(words?.join(","))
        }
        Value::Null | Value::Bool(_) | Value::Object(_) => Err(format!("{name}: expected a string or a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_jobs_and_errors_name_the_line() {
        let text = "{\"tenant\":\"fusion\",\"gpus\":8,\"time\":\"2h\",\"command\":[\"echo\",1],\"env\":{\"A\":\"1,2\"}}\n\n\
                    {\"tenant\":\"solar\",\"shape\":[8,4],\"hold\":true,\"script\":\"#!/bin/sh\\n\",\"depend\":\"afterok:+0\"}\n";
        let drafts = read(text).expect("reads");
        assert_eq!((drafts[0].gpus, drafts[0].args.as_slice()), (Some(8), &["echo".to_owned(), "1".to_owned()][..]));
        assert_eq!(drafts[0].env.get("A").map(String::as_str), Some("1,2"));
        assert_eq!((drafts[1].shape.clone(), drafts[1].hold), (Some(vec![8, 4]), Some(true)));
        assert_eq!(read("{}\n{\"gpu\":1}").expect_err("unknown"), "line 2: unexpected argument '--gpu' found");
        assert!(read("nonsense").expect_err("no JSON").starts_with("line 1: "));
    }
}
