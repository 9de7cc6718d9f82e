//! The binary that the end-to-end tests start: the same as `dure`.

fn main() -> std::process::ExitCode {
    dure_cli::main()
}
