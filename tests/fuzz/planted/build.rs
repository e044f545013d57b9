//! Compiles this crate, and no other, with the planted bugs.

fn main() {
    println!("cargo::rustc-cfg=wharf_planted");
    println!("cargo::rerun-if-changed=build.rs");
}
