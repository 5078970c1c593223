//! See the library.

fn main() -> std::process::ExitCode {
    weft_shuttle::main()
}
