#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod capture;
pub(crate) mod frames;
pub(crate) mod host;
