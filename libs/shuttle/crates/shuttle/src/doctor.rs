//! What the kernel has of what is needed, feature by feature.

use std::fs;
use std::path::Path;

use serde_json::json;
use weft_io::Links;

use crate::config::Config;
use crate::proto::Feature;

/// `uname -r`.
pub(crate) fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Tries everything that can be tried without changing anything.
pub(crate) fn features(config: &Config) -> Vec<Feature> {
    let mut features: Vec<Feature> = weft_kernel::features(&config.bpffs, &config.tun_node)
        .into_iter()
        .map(|feature| Feature {
            name: feature.name.to_owned(),
            present: feature.is_present,
            required: feature.is_required,
            detail: feature.detail,
        })
        .collect();
    features.push(helper(&config.netns_socket));
    features.push(device_kind(config));
    features
}

fn helper(socket: &Path) -> Feature {
    let client = weft_netns::Client::new(socket.to_owned());
    // Its own namespace is what it must refuse, so this changes nothing.
    let detail = match client.open_namespace(Path::new("/proc/self/ns/net")) {
        Err(error @ weft_netns::Error::Unreachable { .. }) => Err(error.to_string()),
        _ => Ok("enter endpoints' namespaces".to_owned()),
    };
    Feature {
        name: "netns-helper".to_owned(),
        present: detail.is_ok(),
        required: false,
        detail: detail.unwrap_or_else(|text| text),
    }
}

fn device_kind(config: &Config) -> Feature {
    let found = Links::open().map_err(|error| error.to_string()).and_then(|mut links| {
        links.find(&config.vxlan_device()).map_err(|error| error.to_string())
    });
    let is_loaded = matches!(&found, Ok(Some(link)) if link.kind == "vxlan")
        || Path::new("/sys/module/vxlan").exists()
        || is_built_in("vxlan");
    let detail = if is_loaded {
        "carry frames between hosts".to_owned()
    } else {
        "carry frames between hosts: modprobe vxlan".to_owned()
    };
    Feature { name: "vxlan".to_owned(), present: is_loaded, required: true, detail }
}

fn is_built_in(module: &str) -> bool {
    let path = format!("/lib/modules/{}/modules.builtin", kernel_release());
    fs::read_to_string(path)
        .is_ok_and(|text| text.lines().any(|line| line.ends_with(&format!("/{module}.ko"))))
}

/// Prints a table, or one JSON object; says whether everything needed is there.
pub(crate) fn print(config: &Config, is_json: bool) -> bool {
    let features = features(config);
    let is_complete = features.iter().all(|feature| feature.present || !feature.required);
    if is_json {
        let rows: Vec<_> = features
            .iter()
            .map(|feature| {
                json!({
                    "name": feature.name,
                    "present": feature.present,
                    "required": feature.required,
                    "detail": feature.detail,
                })
            })
            .collect();
        println!(
            "{}",
            json!({ "kernel": kernel_release(), "complete": is_complete, "features": rows })
        );
        return is_complete;
    }
    println!("kernel {}", kernel_release());
    for feature in &features {
        let state = match (feature.present, feature.required) {
            (true, _) => "ok",
            (false, true) => "MISSING",
            (false, false) => "missing",
        };
        println!("{:<14} {state:<8} {}", feature.name, feature.detail);
    }
    is_complete
}
