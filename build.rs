//! Holds the schema files against the list of released ones, and fails where one has changed since its release.
//!
//! Then it puts the functions that every start and `tmws connect` touch next to one another, where the linker can do it:
//! the system maps code in blocks around what is touched, and code that lies scattered costs megabytes in every process.
//!
//! `scripts/order` writes the list. A name in it that no longer exists is passed over, and so is the whole list where a
//! trial link shows that the linker does not know the argument.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

#[path = "build/recordings.rs"]
mod recordings;
#[path = "build/released.rs"]
mod released;

const LIST: &str = "scripts/order.txt";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={LIST}");
    let of =
        |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
    check_schemas(Path::new(&of("CARGO_MANIFEST_DIR")));
    recordings::list(Path::new(&of("CARGO_MANIFEST_DIR")), Path::new(&of("OUT_DIR")));
    // The names hold hashes that are those of this one platform and profile.
    if of("TARGET") != "x86_64-unknown-linux-gnu" || of("PROFILE") != "release" {
        return;
    }
    let list = Path::new(&of("CARGO_MANIFEST_DIR")).join(LIST);
    let arguments = [
        format!("-Wl,--symbol-ordering-file={}", list.display()),
        "-Wl,--no-warn-symbol-ordering".to_owned(),
    ];
    let folder = PathBuf::from(of("OUT_DIR"));
    if list.exists() && links(&folder, &arguments) {
        for argument in arguments {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}

/// Fails the build for each released schema file that is not as `schemas/released.toml` says.
fn check_schemas(root: &Path) {
    println!("cargo:rerun-if-changed=build/released.rs");
    for (folder, _) in released::FOLDERS.iter().filter(|(folder, _)| root.join(folder).exists()) {
        println!("cargo:rerun-if-changed={folder}");
    }
    for fault in released::faults(root) {
        println!("cargo::{}={}", if fault.is_fatal { "error" } else { "warning" }, fault.text);
    }
}

/// Whether a program links with `arguments`, with the linker and the flags of this build.
fn links(folder: &Path, arguments: &[String]) -> bool {
    let source = folder.join("trial.rs");
    if fs::write(&source, "fn main() {}\n").is_err() {
        return false;
    }
    let mut compiler = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        compiler.arg("-C").arg(format!("linker={}", linker.display()));
    }
    if let Some(flags) = env::var_os("CARGO_ENCODED_RUSTFLAGS") {
        compiler.args(flags.to_string_lossy().split('\x1f').filter(|flag| !flag.is_empty()));
    }
    for argument in arguments {
        compiler.arg("-C").arg(format!("link-arg={argument}"));
    }
    compiler.arg("--target=x86_64-unknown-linux-gnu").arg("-o").arg(folder.join("trial")).arg(&source);
    compiler.stdout(Stdio::null()).stderr(Stdio::null());
    compiler.status().is_ok_and(|status| status.success())
}
