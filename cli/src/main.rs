//! The binary: everything is in the library, so that the tests' binary is the same code.

fn main() -> std::process::ExitCode {
    dure_cli::main()
}
