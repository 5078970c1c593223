//! Every target over its corpus, with the stable compiler.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_target_holds_over_its_corpus() {
    for (name, run) in weft_fuzz::TARGETS {
        let files = files(&here("corpus").join(name));
        assert!(!files.is_empty(), "{name} has no corpus");
        run(&[]);
        for file in files {
            let bytes = fs::read(&file).unwrap();
            let result = std::panic::catch_unwind(|| run(&bytes));
            assert!(result.is_ok(), "{} fails", file.display());
        }
    }
}

#[test]
fn every_target_has_a_program_and_a_corpus_and_nothing_else_has() {
    let targets: BTreeSet<String> = weft_fuzz::TARGETS.map(|(name, _)| name.to_owned()).into();
    assert_eq!(targets.len(), weft_fuzz::TARGETS.len());
    let names = |folder: &str| -> BTreeSet<String> {
        let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        files(&here(folder)).into_iter().map(stem).collect()
    };
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("fuzzers/targets"), targets);
}
