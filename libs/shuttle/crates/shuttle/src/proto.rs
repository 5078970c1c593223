//! The messages of `proto/weftline/shuttle/v1`, and their way into the engine's types. What cannot
//! be is refused here.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::pedantic, reason = "generated")]

pub(crate) mod weftline {
    pub(crate) mod common {
        pub(crate) mod v1 {
            tonic::include_proto!("weftline.common.v1");
        }
    }
    pub(crate) mod shuttle {
        pub(crate) mod v1 {
            tonic::include_proto!("weftline.shuttle.v1");
        }
    }
}

pub(crate) use weftline::common::v1::*;
pub(crate) use weftline::shuttle::v1::*;
