fn main() { dure_cli::main() }
