//! Lines of Wireshark's key log for `WireGuard` (<https://wiki.wireshark.org/WireGuard>). Whoever
//! reads them reads the traffic.

use std::fmt;
use std::ops::Deref;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::noise::{LocalKey, Secret};

/// Some lines with a line feed each. Wiped when it is dropped, and never printed by itself.
#[derive(Clone)]
pub struct KeyLogLines(Zeroizing<String>);

impl Deref for KeyLogLines {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyLogLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyLogLines")
    }
}

/// Lets the session of a handshake be decrypted.
pub(crate) fn lines(
    local: &LocalKey,
    remote_public: &[u8; 32],
    ephemeral: &Secret,
    psk: &[u8; 32],
) -> KeyLogLines {
    let rows: [(&str, &[u8; 32]); 4] = [
        ("LOCAL_STATIC_PRIVATE_KEY", local.private()),
        ("REMOTE_STATIC_PUBLIC_KEY", remote_public),
        ("LOCAL_EPHEMERAL_PRIVATE_KEY", ephemeral),
        ("PRESHARED_KEY", psk),
    ];
    let mut lines = Zeroizing::new(String::with_capacity(4 * 80));
    for (name, key) in rows {
        lines.push_str(name);
        lines.push_str(" = ");
        STANDARD.encode_string(key, &mut lines);
        lines.push('\n');
    }
    KeyLogLines(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_have_wiresharks_names_in_its_order() {
        let secret = Secret::from([2; 32]);
        let lines = lines(&LocalKey::new(&[1; 32]), &[3; 32], &secret, &[0; 32]);
        let names: Vec<&str> =
            lines.lines().map(|line| line.split(" = ").next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "LOCAL_STATIC_PRIVATE_KEY",
                "REMOTE_STATIC_PUBLIC_KEY",
                "LOCAL_EPHEMERAL_PRIVATE_KEY",
                "PRESHARED_KEY"
            ]
        );
        assert!(lines.ends_with("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"));
    }
}
