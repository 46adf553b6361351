//! Gives `gantry-runtime` an entry point before the C library's: see `gantry_sys::early`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        println!("cargo::rustc-link-arg-bin=gantry-runtime=-Wl,-e,gantry_entry_sealed");
    }
}
