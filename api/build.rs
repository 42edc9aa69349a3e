//! Generates messages and services from every `.proto` below `proto/`, with protox instead of protoc.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let root = Path::new("proto");
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let descriptors = protox::compile(&files, [root])?;
    const DATA: [&str; 2] = [".midge.v1", ".spire.api.types"];
    let mut builder = tonic_prost_build::configure();
    for package in DATA {
        builder = builder
            .type_attribute(package, "#[derive(serde::Serialize, serde::Deserialize)]")
            .message_attribute(package, "#[serde(default)]");
    }
    builder.build_client(true).build_server(true).compile_fds(descriptors)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
