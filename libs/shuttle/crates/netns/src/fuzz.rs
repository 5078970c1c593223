//! What a fuzzer calls.

use crate::wire::Request;

/// Reads the bytes as what a shuttle asks of the helper.
///
/// # Panics
/// Where a request is taken that no shuttle can have made.
pub fn request(bytes: &[u8]) {
    let Some(request) = Request::decode(bytes) else { return };
    let encoded = request.encode().expect("what was taken could be asked");
    assert_eq!(Request::decode(&encoded), Some(request));
}
