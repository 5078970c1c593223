//! Plays those who speak the tunnel's protocol and mean harm: see the README.

mod member;
mod strangers;

use std::process::ExitCode;

use serde_json::{Value, json};

type Outcome = Result<Value, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["initiations", key, count, file] => strangers::initiations(key, count, file),
        ["member", plan] => member::play(plan),
        _ => Err("say `initiations KEY COUNT FILE` or `member PLAN`".into()),
    };
    match outcome {
        Ok(mut result) => {
            result["event"] = json!("result");
            println!("{result}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A key in hexadecimal digits.
fn key(digits: &str) -> Result<[u8; 32], Box<dyn std::error::Error>> {
    bytes(digits)?.try_into().map_err(|_| "a key has 32 bytes".into())
}

fn bytes(digits: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    (0..digits.len())
        .step_by(2)
        .map(|at| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect::<Option<_>>()
        .ok_or_else(|| format!("`{digits}` is not a row of hexadecimal bytes").into())
}
