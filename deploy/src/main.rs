//! `weir-image`: weir's container image from built programs; see `scripts/image`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Writes weir's image as one file, which engines load.
#[derive(Debug, Parser)]
#[command(name = "weir-image", version)]
struct Flags {
    /// Folder of the built programs.
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Name of the image.
    #[arg(long, default_value = concat!("weir:", env!("CARGO_PKG_VERSION")))]
    name: String,
    /// Compress the layers, for an image that travels.
    #[arg(long)]
    compress: bool,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let digest =
        weir_deploy::weir::write(&flags.programs, &flags.name, flags.compress, &flags.out)?;
    println!("{} {digest} in {}", flags.name, flags.out.display());
    Ok(())
}
