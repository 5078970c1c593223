//! Options of the form `--name value`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;
use std::time::Duration;

const GIVE_UP_MS: u64 = 30_000;
const KEY_BYTES: usize = 32;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// What is wanted.
#[derive(Debug)]
pub(crate) struct Args {
    /// Private ones, of each host.
    pub(crate) keys: Vec<[u8; KEY_BYTES]>,
    pub(crate) shuttle: SocketAddrV4,
    pub(crate) shuttle_key: [u8; KEY_BYTES],
    /// Of the first host.
    pub(crate) first: Ipv4Addr,
    pub(crate) port: u16,
    /// Where the frames go that make the shuttle begin.
    pub(crate) frames: Option<Frames>,
    pub(crate) give_up: Duration,
    /// Without them no host changes its keys before it has to.
    pub(crate) changes: Option<Changes>,
}

/// How every host changes its keys in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) count: u32,
    pub(crate) every: Duration,
}

#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) netns: String,
    pub(crate) device: String,
}

impl Args {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, UsageError> {
        let options = Options::parse(words)?;
        let file: String = options.required("keys")?;
        let keys = fs::read_to_string(&file)
            .map_err(|error| UsageError(format!("--keys: {file}: {error}")))?;
        let frames = match (options.optional("frames-netns")?, options.optional("frames-device")?) {
            (Some(netns), Some(device)) => Some(Frames { netns, device }),
            (None, None) => None,
            _ => return Err(UsageError("--frames-netns and --frames-device go together".into())),
        };
        let changes = match (options.optional("changes")?, options.optional("change-every-ms")?) {
            (Some(count), Some(ms)) => Some(Changes { count, every: Duration::from_millis(ms) }),
            (None, None) => None,
            _ => return Err(UsageError("--changes and --change-every-ms go together".into())),
        };
        Ok(Self {
            keys: keys.lines().map(|line| key(line, "--keys")).collect::<Result<_, _>>()?,
            shuttle: options.required("shuttle")?,
            shuttle_key: key(&options.required::<String>("shuttle-key")?, "--shuttle-key")?,
            first: options.required("first")?,
            port: options.required("port")?,
            frames,
            give_up: Duration::from_millis(options.optional("give-up-ms")?.unwrap_or(GIVE_UP_MS)),
            changes,
        })
    }
}

struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, UsageError> {
        let mut options = BTreeMap::new();
        while let Some(word) = words.next() {
            let name = word
                .strip_prefix("--")
                .ok_or_else(|| UsageError(format!("`{word}` is not an option")))?;
            let value = words.next().ok_or_else(|| UsageError(format!("{word} has no value")))?;
            options.insert(name.to_owned(), value);
        }
        Ok(Self(options))
    }

    fn required<T: FromStr>(&self, name: &str) -> Result<T, UsageError> {
        self.optional(name)?.ok_or_else(|| UsageError(format!("--{name} is missing")))
    }

    fn optional<T: FromStr>(&self, name: &str) -> Result<Option<T>, UsageError> {
        let Some(word) = self.0.get(name) else { return Ok(None) };
        let wrong = || UsageError(format!("--{name}: `{word}` cannot be understood"));
        word.parse().map(Some).map_err(|_| wrong())
    }
}

/// A key in hexadecimal digits. What is wrong with it does not show it.
fn key(digits: &str, name: &str) -> Result<[u8; KEY_BYTES], UsageError> {
    let byte = |at: usize| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..KEY_BYTES).map(byte).collect();
    let key =
        bytes.filter(|_| digits.len() == 2 * KEY_BYTES).and_then(|bytes| bytes.try_into().ok());
    key.ok_or_else(|| {
        UsageError(format!("{name}: a key has {KEY_BYTES} bytes in hexadecimal digits"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_all_its_digits_and_no_more() {
        assert_eq!(key(&"0a".repeat(32), "--keys"), Ok([10; 32]));
        for wrong in ["0a".repeat(31), "0a".repeat(33), "0g".repeat(32), String::new()] {
            assert!(key(&wrong, "--keys").is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_name_what_is_wrong_with_them() {
        let parse = |line: &str| Options::parse(line.split_whitespace().map(str::to_owned));
        assert!(parse("--port").is_err());
        let options = parse("--port many").unwrap();
        assert!(options.required::<u16>("port").unwrap_err().to_string().contains("--port"));
        assert!(options.required::<u16>("first").unwrap_err().to_string().contains("--first"));
    }
}
