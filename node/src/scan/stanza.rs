//! Reads the stanzas of a Debian control file (deb822(5)) strictly: what is not understood is an error with its line.

/// One stanza: fields in the order of the file, with the line that each began on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stanza<'a> {
    /// Line of the first field, counted from 1.
    pub line: usize,
    fields: Vec<(&'a str, &'a [u8])>,
}

/// A line that is not deb822.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct Malformed {
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

impl<'a> Stanza<'a> {
    /// First line of the value of field `name`, without white space around it. Names differ not by case.
    ///
    /// # Errors
    /// When the value is not text; only fields that are asked for must be UTF-8, since maintainers' names may not be.
    pub fn field(&self, name: &str) -> Result<Option<&'a str>, Malformed> {
        let Some((_, value)) = self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)) else {
            return Ok(None);
        };
        match std::str::from_utf8(value) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(malformed(self.line, format!("field {name} of this stanza is not UTF-8 text"))),
        }
    }

    /// The value of a field that must be there.
    ///
    /// # Errors
    /// When it is missing or empty.
    pub fn required(&self, name: &str) -> Result<&'a str, Malformed> {
        match self.field(name)? {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(malformed(self.line, format!("this stanza has no field {name}"))),
        }
    }
}

/// An error about `line`.
pub fn malformed(line: usize, problem: impl Into<String>) -> Malformed {
    Malformed { line, problem: problem.into() }
}

/// Splits `bytes` into stanzas. Lines that continue a field are checked and skipped.
///
/// # Errors
/// [`Malformed`] names the first bad line; a file that does not end with a line feed is cut off and therefore bad.
pub fn parse(bytes: &[u8]) -> Result<Vec<Stanza<'_>>, Malformed> {
    let mut stanzas = Vec::new();
    let mut current = Stanza::default();
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let Some(line) = line.strip_suffix(b"\n") else {
            return Err(malformed(number, "the file is cut off in this line"));
        };
        if line.contains(&0) {
            return Err(malformed(number, "contains a zero byte"));
        }
        if line.iter().all(|byte| byte.is_ascii_whitespace()) && !line.starts_with(b" ") {
            push(&mut stanzas, &mut current);
        } else if line.starts_with(b" ") || line.starts_with(b"\t") {
            if current.fields.is_empty() {
                return Err(malformed(number, "continues a field, but no field began"));
            }
        } else {
            take_field(&mut current, line, number)?;
        }
    }
    push(&mut stanzas, &mut current);
    Ok(stanzas)
}

fn push<'a>(stanzas: &mut Vec<Stanza<'a>>, current: &mut Stanza<'a>) {
    if !current.fields.is_empty() {
        stanzas.push(std::mem::take(current));
    }
}

fn take_field<'a>(current: &mut Stanza<'a>, line: &'a [u8], number: usize) -> Result<(), Malformed> {
    let colon = line.iter().position(|byte| *byte == b':');
    let Some((name, value)) = colon.map(|at| (&line[..at], &line[at + 1..])) else {
        return Err(malformed(number, "is neither a field (\"Name: value\") nor the continuation of one"));
    };
    let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b':';
    let Some(name) = std::str::from_utf8(name).ok().filter(|name| !name.is_empty()) else {
        return Err(malformed(number, "has a field without a name"));
    };
    if !name.bytes().all(|byte| plain(&byte)) {
        return Err(malformed(number, "has a field name with white space or special characters"));
    }
    if current.fields.is_empty() {
        current.line = number;
    }
    if current.fields.iter().any(|(field, _)| field.eq_ignore_ascii_case(name)) {
        return Err(malformed(number, format!("field {name} appears twice in one stanza")));
    }
    current.fields.push((name, value.trim_ascii()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stanzas_are_split() {
        let text = b"Package: a\nDescription: x\n more\n .\n\n\nPACKAGE: b\nMaintainer: J\xf6rg\n";
        let stanzas = parse(text).expect("stanzas");
        assert_eq!(stanzas.len(), 2);
        assert_eq!(stanzas[0].required("Package"), Ok("a"));
        assert_eq!(stanzas[1].required("package"), Ok("b"));
        assert_eq!(stanzas[1].line, 7);
        assert!(stanzas[1].field("Maintainer").is_err());
        assert!(stanzas[1].required("Version").is_err());
    }

    #[test]
    fn bad_lines_are_named() {
        let line = |text: &[u8]| parse(text).expect_err("malformed").line;
        assert_eq!(line(b"Package: a\nnonsense\n"), 2);
        assert_eq!(line(b" continued\n"), 1);
        assert_eq!(line(b"Package: a\nPackage: b\n"), 2);
        assert_eq!(line(b"Package: a\nVersion: 1"), 2);
        assert_eq!(line(b": a\n"), 1);
        assert_eq!(line(b"Package: a\0\n"), 1);
        assert_eq!(line(b"Pack age: a\n"), 1);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
