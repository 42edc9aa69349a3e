#![doc = "The midge command."]
fn main() {}
