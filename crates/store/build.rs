//! `sqlx::migrate!` reads the folder when this crate is compiled; a file that is new in it must
//! compile it again.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
