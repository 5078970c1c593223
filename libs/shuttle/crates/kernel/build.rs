//! Compiles the eBPF programs with clang.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let sources = manifest.join("../../bpf");
    println!("cargo::rerun-if-changed={}", sources.display());
    println!("cargo::rerun-if-env-changed=CLANG");
    compile(&sources.join("weft.bpf.c"), &out.join("weft.bpf.o"));
    // Built for everyone, loaded by the crate's own tests only.
    compile(&sources.join("test/weft_test.bpf.c"), &out.join("weft_test.bpf.o"));
}

fn compile(source: &Path, object: &Path) {
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let mut command = Command::new(&clang);
    command.args([
        "-target",
        "bpf",
        "-mcpu=v3",
        "-O2",
        "-g",
        "-mllvm",
        "-no-stack-slot-sharing",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]);
    // Debian keeps <asm/types.h> apart by architecture, and the target bpf knows of none.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("set by cargo");
    let headers = format!("/usr/include/{arch}-linux-gnu");
    if fs::exists(&headers).unwrap_or(false) {
        command.arg("-I").arg(headers);
    }
    command.arg("-c").arg(source).arg("-o").arg(object);
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}; install clang", clang.display()));
    assert!(
        status.success(),
        "{} did not compile; clang 14 or newer and the headers of libbpf (libbpf-dev) are needed",
        source.display()
    );
}
