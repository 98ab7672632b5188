//! systemd's environment files, read as systemd reads them (`systemd.exec(5)`, `EnvironmentFile=`): quotes,
//! escapes and continued lines, and no other syntax of a shell. A comment always ends with its line, as in
//! systemd 254 and later.

/// The state of the parser before a character.
enum State {
    BeforeKey,
    Comment,
    Key,
    BeforeValue,
    Value,
    Escaped,
    SingleQuoted,
    DoubleQuoted,
    DoubleQuotedEscaped,
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

/// The assignments of a file, in order. Other lines are ignored, as in systemd.
#[must_use]
pub fn parse(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut key = String::new();
    let mut value = String::new();
    // Where the spaces at the end of the value begin.
    let mut trailing: Option<usize> = None;
    let mut state = State::BeforeKey;
    for c in text.chars() {
        state = match state {
            State::BeforeKey => match c {
                '#' | ';' => State::Comment,
                _ if is_space(c) => State::BeforeKey,
                _ => {
                    key = c.to_string();
                    State::Key
                }
            },
            State::Comment if is_line_end(c) => State::BeforeKey,
            State::Comment => State::Comment,
            State::Key => match c {
                '=' => {
                    value.clear();
                    trailing = None;
                    State::BeforeValue
                }
                _ if is_line_end(c) => State::BeforeKey,
                _ => {
                    key.push(c);
                    State::Key
                }
            },
            State::BeforeValue | State::Value if is_line_end(c) => {
                add(&mut found, &key, &value, trailing);
                State::BeforeKey
            }
            State::BeforeValue => match c {
                '\'' => State::SingleQuoted,
                '"' => State::DoubleQuoted,
                '\\' => State::Escaped,
                _ if is_space(c) => State::BeforeValue,
                _ => {
                    value.push(c);
                    State::Value
                }
            },
            State::Value => {
                if c == '\\' {
                    trailing = None;
                    State::Escaped
                } else {
                    trailing = is_space(c).then(|| trailing.unwrap_or(value.len()));
                    value.push(c);
                    State::Value
                }
            }
            State::Escaped => {
                if !is_line_end(c) {
                    value.push(c);
                }
                State::Value
            }
            State::SingleQuoted if c == '\'' => State::BeforeValue,
            State::DoubleQuoted if c == '"' => State::BeforeValue,
            State::DoubleQuoted if c == '\\' => State::DoubleQuotedEscaped,
            State::SingleQuoted => {
                value.push(c);
                State::SingleQuoted
            }
            State::DoubleQuoted => {
                value.push(c);
                State::DoubleQuoted
            }
            State::DoubleQuotedEscaped => {
                match c {
                    '"' | '\\' | '`' | '$' => value.push(c),
                    '\n' => {}
                    _ => value.extend(['\\', c]),
                }
                State::DoubleQuoted
            }
        };
    }
    if !matches!(state, State::BeforeKey | State::Comment | State::Key) {
        add(&mut found, &key, &value, trailing);
    }
    found
}

fn add(found: &mut Vec<(String, String)>, key: &str, value: &str, trailing: Option<usize>) {
    let key = key.trim_end_matches(is_space);
    let starts_well = key
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if starts_well && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        let value = trailing.and_then(|end| value.get(..end)).unwrap_or(value);
        found.push((key.to_string(), value.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Option<String> {
        let mut all = parse(text);
        assert!(all.len() < 2, "{all:?}");
        all.pop().map(|(_, value)| value)
    }

    /// The values are those that systemd 252 and 257 themselves have given for these files.
    #[test]
    fn files_are_read_as_systemd_reads_them() {
        for (text, value) in [
            ("A=1   \n", "1"),
            (" \t A = 1\n", "1"),
            ("B=\" x \" \n", " x "),
            ("D= \\\n y\n", " y"),
            ("E=x\\\n# not a comment\n", "x# not a comment"),
            ("F=\"a\" \"b\"\n", "ab"),
            ("F=\"a\" # c\n", "a# c"),
            ("H= # c\n", "# c"),
            ("O=a\"b c\"\n", "a\"b c\""),
            ("CONT=a\\\n  b\n", "a  b"),
            ("ESCD=\"a\\bc\\\"d\\\\e\\n\"\n", "a\\bc\"d\\e\\n"),
            ("ESCS='a\\b\\'\n", "a\\b\\"),
            ("MLD=\"line1\nline2\"\n", "line1\nline2"),
            ("EQ=a=b=c\n", "a=b=c"),
            ("CRLF=abc\r\n", "abc"),
            ("UNTERM=\"abc", "abc"),
            ("SPACE=abc\\ ", "abc "),
            ("Q=\\\"q\\\"\n", "\"q\""),
            ("K=\n", ""),
            ("K=\"\"\n", ""),
            ("; x\\\nI=1\n", "1"),
        ] {
            assert_eq!(one(text).as_deref(), Some(value), "{text:?}");
        }
        for text in [
            "export EXP=1\n",
            "1BAD=x\n",
            "BAD-DASH=x\n",
            "NOEQ\n",
            "",
            "NOEQ",
            "# A=1",
        ] {
            assert_eq!(one(text), None, "{text:?}");
        }
    }
}
