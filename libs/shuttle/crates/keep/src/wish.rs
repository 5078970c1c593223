//! What a program says to its manager (`sd_notify(3)`), as far as it is about descriptors.

const NAME_BYTES_MAX: usize = 64;
/// The name of what is parked without one (`sd_pid_notify_with_fds(3)`).
const NAMELESS: &str = "stored";

/// What becomes of descriptors, by their name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Those that came with it are kept.
    Keep(String),
    /// Those that are kept are closed.
    Forget(String),
}

impl Wish {
    /// `None` where it is about something else, or the name is none: one goes into a list that colons
    /// divide (`LISTEN_FDNAMES`).
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(text);
        let value = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::trim))
        };
        let name = value("FDNAME").unwrap_or(NAMELESS);
        let is_name = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if !is_name {
            return None;
        }
        if value("FDSTOREREMOVE") == Some("1") {
            Some(Self::Forget(name.to_owned()))
        } else if value("FDSTORE") == Some("1") {
            Some(Self::Keep(name.to_owned()))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Wish> {
        Wish::parse(text.as_bytes())
    }

    #[test]
    fn descriptors_are_kept_and_forgotten_by_their_name() {
        let name = || "tap".to_owned();
        assert_eq!(parse("FDSTORE=1\nFDNAME=tap\nFDPOLL=0"), Some(Wish::Keep(name())));
        assert_eq!(parse("FDSTOREREMOVE=1\nFDNAME=tap"), Some(Wish::Forget(name())));
        assert_eq!(parse("FDSTORE=1"), Some(Wish::Keep(NAMELESS.to_owned())));
        assert_eq!(parse("READY=1"), None);
    }

    #[test]
    fn a_name_that_cannot_be_told_to_the_next_process_is_none() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for name in ["", "a:b", "a b", "\u{e9}", &long] {
            assert_eq!(parse(&format!("FDSTORE=1\nFDNAME={name}")), None, "{name}");
        }
    }
}
