//! Turns the tables of `bpf/reasons.h` into Rust enums, so that the C file stays the only source of names and numbers.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

struct Entry<'a> {
    number: u8,
    name: &'a str,
    text: &'a str,
}

fn main() {
    let header = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"))
        .join("../../bpf/reasons.h");
    println!("cargo::rerun-if-changed={}", header.display());
    let source = fs::read_to_string(&header).expect("bpf/reasons.h is readable");
    let mut code = String::new();
    for (table, name, doc) in [
        ("WEFT_VERDICTS", "Verdict", "What happened to a frame. Source: `bpf/reasons.h`."),
        ("WEFT_DROP_REASONS", "DropReason", "Why a frame was dropped. Source: `bpf/reasons.h`."),
    ] {
        write_enum(&mut code, name, doc, &entries(&source, table));
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")).join("reasons.rs");
    fs::write(out, code).expect("OUT_DIR is writable");
}

/// The `X(number, name, "text")` lines of one table.
fn entries<'a>(source: &'a str, table: &str) -> Vec<Entry<'a>> {
    let start = source.find(&format!("#define {table}(X)")).expect("the table exists");
    let entries: Vec<_> = source[start..]
        .lines()
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("X("))
        .map(|line| {
            let (number, rest) = line.split_once(", ").expect("X(number, name, text)");
            let (name, rest) = rest.split_once(", \"").expect("X(number, name, text)");
            let (text, _) = rest.split_once("\")").expect("X(number, name, text)");
            Entry { number: number.parse().expect("a number"), name, text }
        })
        .collect();
    for (index, entry) in entries.iter().enumerate() {
        let earlier = &entries[..index];
        assert!(
            !earlier.iter().any(|other| other.number == entry.number || other.name == entry.name),
            "{table}: {} {} is there twice",
            entry.number,
            entry.name
        );
    }
    entries
}

fn write_enum(code: &mut String, name: &str, doc: &str, entries: &[Entry<'_>]) {
    let camel = |snake: &str| {
        snake
            .split('_')
            .flat_map(|word| {
                word[..1].to_uppercase().chars().chain(word[1..].chars()).collect::<Vec<_>>()
            })
            .collect::<String>()
    };
    let mut line = |text: String| writeln!(code, "{text}").expect("a String takes everything");
    line(format!("/// {doc}"));
    line("#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]".into());
    line(format!("#[repr(u8)]\npub enum {name} {{"));
    for Entry { number, name, text } in entries {
        line(format!("    /// {}{}.", text[..1].to_uppercase(), &text[1..]));
        line(format!("    {} = {number},", camel(name)));
    }
    line(format!(
        "}}\n\nimpl {name} {{\n    /// Every one of them, by number.\n    pub const ALL: &'static [Self] = &["
    ));
    for entry in entries {
        line(format!("        Self::{},", camel(entry.name)));
    }
    line("    ];\n\n    /// Stable name, as it stands in counters.\n    pub const fn name(self) -> &'static str {\n        match self {".into());
    for entry in entries {
        line(format!("            Self::{} => \"{}\",", camel(entry.name), entry.name));
    }
    line("        }\n    }\n\n    /// What it means, for people.\n    pub const fn text(self) -> &'static str {\n        match self {".into());
    for entry in entries {
        line(format!("            Self::{} => \"{}\",", camel(entry.name), entry.text));
    }
    line("        }\n    }\n}\n".into());
}
