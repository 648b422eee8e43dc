//! The patterns that ship in the binary.

macro_rules! builtins {
    ($($file:literal)*) => {
        /// File name and text of every built-in pattern, by name.
        pub const BUILTINS: &[(&str, &str)] = &[$(($file, include_str!(concat!("builtin/", $file))),)*];
    };
}

builtins! {
    "code.find.yaml"
    "memory.forget.yaml"
    "memory.lookup.yaml"
    "memory.recall.yaml"
    "memory.remember.yaml"
    "memory.timeline.yaml"
    "repo.digest.yaml"
    "session.close.yaml"
    "session.open.yaml"
    "session.primer.yaml"
    "todo.sweep.yaml"
}
