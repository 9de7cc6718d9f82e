//! Words of a directive line: quotes as in a shell, a `#` before a word starts a comment.

/// Splits a line. An open quote is an error.
pub(super) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    match quote {
        Some(open) => Err(format!("a quote ({open}) is opened and not closed")),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_comments() {
        let words = split(r#" -J "my job" --comment='it''s' -N2 a\ b "" # -t 5"#).expect("closed");
        assert_eq!(words, ["-J", "my job", "--comment=its", "-N2", "a b", ""]);
        assert_eq!(split("--x=a#b").expect("closed"), ["--x=a#b"]);
        assert!(split("-J 'open").expect_err("open").contains("not closed"));
    }
}
