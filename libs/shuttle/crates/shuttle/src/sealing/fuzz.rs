//! What of this folder a fuzzer calls: see [`crate::fuzz`].

use weft_tunnel::LocalKey;

use super::recall::{Recall, RecalledPeer};

pub(crate) fn memory(bytes: &[u8]) {
    // Of fields with one number the last counts.
    let own = [super::recall::FORMAT, weft_abi::ABI].map(u8::try_from).map(Result::unwrap);
    let Some(recall) = Recall::parse(&[bytes, &[1 << 3, own[0], 2 << 3, own[1]]].concat()) else {
        return;
    };
    let networks = |peer: &RecalledPeer| peer.member().map(|member| member.vnis);
    let before: Vec<_> = recall.peers.iter().map(networks).collect();
    let Some(settings) = recall.settings() else { return };
    let again = Recall::of(&settings, recall.findings(), recall.peers.clone()).to_bytes();
    let again = Recall::parse(&again).expect("a state of this version");
    let settings_again = again.settings().expect("settings that were read before");
    assert_eq!(settings_again.key.public(), settings.key.public());
    assert_eq!(
        settings_again.previous_key.as_ref().map(LocalKey::public),
        settings.previous_key.as_ref().map(LocalKey::public)
    );
    assert_eq!((settings_again.port, settings_again.key_log), (settings.port, settings.key_log));
    assert_eq!(again.peers.iter().map(networks).collect::<Vec<_>>(), before);
}
