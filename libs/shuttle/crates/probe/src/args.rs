//! Options of the form `--name value`; a name without a value is a switch.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UsageError(String);

impl UsageError {
    pub(crate) fn new(problem: String) -> Self {
        Self(problem)
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

#[derive(Debug, Default)]
pub(crate) struct Args(BTreeMap<String, String>);

impl Args {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, UsageError> {
        let mut options = BTreeMap::new();
        let mut words = words.peekable();
        while let Some(word) = words.next() {
            let name = word
                .strip_prefix("--")
                .ok_or_else(|| UsageError(format!("`{word}` is not an option")))?;
            let value = words.next_if(|next| !next.starts_with("--")).unwrap_or_default();
            options.insert(name.to_owned(), value);
        }
        Ok(Self(options))
    }

    pub(crate) fn switch(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn required<T: FromStr>(&self, name: &str) -> Result<T, UsageError> {
        self.optional(name)?.ok_or_else(|| UsageError(format!("--{name} is missing")))
    }

    pub(crate) fn or<T: FromStr>(&self, name: &str, default: T) -> Result<T, UsageError> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    pub(crate) fn optional<T: FromStr>(&self, name: &str) -> Result<Option<T>, UsageError> {
        let Some(word) = self.0.get(name) else {
            return Ok(None);
        };
        word.parse()
            .map(Some)
            .map_err(|_| UsageError(format!("--{name}: `{word}` cannot be understood")))
    }

    /// The time that `--duration-ms` gives; without it, none.
    pub(crate) fn duration(&self) -> Result<Option<Duration>, UsageError> {
        Ok(self.optional("duration-ms")?.map(Duration::from_millis))
    }

    /// Bytes written as hexadecimal digits.
    pub(crate) fn bytes(&self, name: &str) -> Result<Vec<u8>, UsageError> {
        let word: String = self.required(name)?;
        (0..word.len())
            .step_by(2)
            .map(|at| word.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect::<Option<Vec<u8>>>()
            .ok_or_else(|| {
                UsageError(format!("--{name}: `{word}` is not a row of hexadecimal bytes"))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Args {
        Args::parse(line.split_whitespace().map(str::to_owned)).unwrap()
    }

    #[test]
    fn reads_values_switches_and_defaults() {
        let args = parse("--rate 10000 --vnet-hdr --size 64");
        assert_eq!(args.required::<u32>("rate"), Ok(10_000));
        assert!(args.switch("vnet-hdr"));
        assert_eq!(args.or("flows", 1_u32), Ok(1));
    }

    #[test]
    fn names_the_option_that_is_wrong() {
        assert!(
            parse("--rate fast")
                .required::<u32>("rate")
                .unwrap_err()
                .to_string()
                .contains("--rate")
        );
        assert!(parse("").required::<u32>("to").unwrap_err().to_string().contains("--to"));
        assert!(parse("--frame 0g").bytes("frame").is_err());
        assert!(parse("--frame 012").bytes("frame").is_err());
        assert_eq!(parse("--frame 00ff").bytes("frame"), Ok(vec![0x00, 0xff]));
    }
}
