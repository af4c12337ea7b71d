//! The image's archive: an OCI layout that also has the manifest of `docker save`, so that old engines, current ones
//! and other tools read it alike.

use anyhow::{Context as _, Result, bail};
use object::{
    Architecture, Endianness, Object as _,
    elf::PT_INTERP,
    read::elf::{ElfFile64, ProgramHeader as _},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// What the image says about itself.
#[derive(Clone, Debug)]
pub(super) struct Description {
    pub(super) tag: String,
    pub(super) version: String,
    /// As RFC 3339 has it.
    pub(super) created: Option<String>,
    pub(super) revision: Option<String>,
}

/// The archive of an image with nothing but `program` in it.
pub(super) fn write(program: &[u8], description: &Description) -> Result<Vec<u8>> {
    let layer = layer(program).context("write the layer")?;
    let config = config(&layer, architecture(program)?, description)
        .to_string()
        .into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, &config),
        "layers": [descriptor(LAYER_TYPE, &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut described = descriptor(MANIFEST_TYPE, &manifest);
    let version = description.tag.rsplit(':').next().unwrap_or("latest");
    described["annotations"] = json!({
        "io.containerd.image.name": qualified(&description.tag),
        "org.opencontainers.image.ref.name": version,
    });
    let index = json!({ "schemaVersion": 2, "manifests": [described] });
    let docker = json!([{
        "Config": blob(&config),
        "RepoTags": [description.tag],
        "Layers": [blob(&layer)],
    }]);
    let mut archive = Builder::new(Vec::new());
    for directory in ["blobs/", "blobs/sha256/"] {
        append(&mut archive, EntryType::Directory, 0o755, directory, &[])?;
    }
    for contents in [&config, &layer, &manifest] {
        append(&mut archive, EntryType::Regular, 0o644, &blob(contents), contents)?;
    }
    let documents = [
        ("index.json", index),
        ("manifest.json", docker),
        ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
    ];
    for (name, document) in documents {
        append(
            &mut archive,
            EntryType::Regular,
            0o644,
            name,
            document.to_string().as_bytes(),
        )?;
    }
    archive.into_inner().context("finish the archive")
}

/// Whether `program` wants a dynamic linker, which the image has not.
pub(super) fn needs_an_interpreter(program: &[u8]) -> Result<bool> {
    let file = ElfFile64::<Endianness>::parse(program).context("parse the binary")?;
    let mut headers = file.elf_program_headers().iter();
    Ok(headers.any(|header| header.p_type(file.endian()) == PT_INTERP))
}

fn layer(program: &[u8]) -> Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    append(&mut layer, EntryType::Regular, 0o755, "dtm", program)?;
    Ok(layer.into_inner()?)
}

fn config(layer: &[u8], architecture: &str, description: &Description) -> Value {
    let Description {
        version,
        created,
        revision,
        ..
    } = description;
    let mut labels = json!({
        "org.opencontainers.image.title": "dtm",
        "org.opencontainers.image.description": "Docker Traffic Monitor: exact per-container traffic and drops for Prometheus",
        "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
        "org.opencontainers.image.version": version,
    });
    if let Some(revision) = revision {
        labels["org.opencontainers.image.revision"] = json!(revision);
    }
    let mut history = json!({ "created_by": "cargo xtask image" });
    let mut config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": ["/dtm"],
            "Env": ["PATH=/"],
            "ExposedPorts": { "10048/tcp": {} },
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [digest(layer)] },
    });
    if let Some(created) = created {
        labels["org.opencontainers.image.created"] = json!(created);
        history["created"] = json!(created);
        config["created"] = json!(created);
    }
    config["config"]["Labels"] = labels;
    config["history"] = json!([history]);
    config
}

/// As Go, and so every engine, calls it.
fn architecture(program: &[u8]) -> Result<&'static str> {
    let file = ElfFile64::<Endianness>::parse(program).context("parse the binary")?;
    Ok(match file.architecture() {
        Architecture::X86_64 => "amd64",
        Architecture::Aarch64 => "arm64",
        Architecture::Riscv64 => "riscv64",
        Architecture::S390x => "s390x",
        Architecture::PowerPc64 => "ppc64le",
        other => bail!("no engine has a name for {other:?}"),
    })
}

fn descriptor(media_type: &str, contents: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(contents), "size": contents.len() })
}

fn digest(contents: &[u8]) -> String {
    format!("sha256:{}", hex(contents))
}

fn blob(contents: &[u8]) -> String {
    format!("blobs/sha256/{}", hex(contents))
}

fn hex(contents: &[u8]) -> String {
    let digits = Sha256::digest(contents)
        .into_iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// The name with the registry that Docker means when none is given.
fn qualified(tag: &str) -> String {
    match tag.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => tag.to_owned(),
        Some(_) => format!("docker.io/{tag}"),
        None => format!("docker.io/library/{tag}"),
    }
}

/// Owned by root and as old as time itself: equal contents make an equal archive.
fn append(
    archive: &mut Builder<Vec<u8>>,
    kind: EntryType,
    mode: u32,
    path: &str,
    contents: &[u8],
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(contents.len() as u64);
    archive
        .append_data(&mut header, path, contents)
        .with_context(|| format!("add {path}"))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use super::*;

    fn description() -> Description {
        Description {
            tag: "example/dtm:1.0".to_owned(),
            version: "1.0".to_owned(),
            created: Some("2026-01-02T03:04:05Z".to_owned()),
            revision: None,
        }
    }

    /// A small program that every machine has.
    fn program() -> Vec<u8> {
        std::fs::read("/bin/sh").unwrap()
    }

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            (entry.path().unwrap().display().to_string(), contents)
        });
        entries.collect()
    }

    #[test]
    fn both_manifests_lead_to_the_same_layer_with_the_program() {
        let program = program();
        let files = entries(&write(&program, &description()).unwrap());
        let parse = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
        let docker = &parse("manifest.json")[0];
        assert_eq!(docker["RepoTags"], json!(["example/dtm:1.0"]));
        let (config, layer) = (
            docker["Config"].as_str().unwrap(),
            docker["Layers"][0].as_str().unwrap(),
        );
        assert_eq!(entries(&files[layer])["dtm"], program);
        let image = parse(config);
        assert_eq!(image["rootfs"]["diff_ids"], json!([digest(&files[layer])]));
        assert_eq!(image["config"]["Entrypoint"], json!(["/dtm"]));
        let path = |descriptor: &Value| {
            descriptor["digest"]
                .as_str()
                .unwrap()
                .replace("sha256:", "blobs/sha256/")
        };
        let manifest = parse(&path(&parse("index.json")["manifests"][0]));
        assert_eq!(path(&manifest["config"]), config);
        assert_eq!(path(&manifest["layers"][0]), layer);
        assert_eq!(manifest["layers"][0]["size"], files[layer].len());
    }

    #[test]
    fn equal_sources_make_equal_archives() {
        let program = program();
        assert!(write(&program, &description()).unwrap() == write(&program, &description()).unwrap());
    }

    #[test]
    fn a_program_with_libraries_is_told_from_a_static_one() {
        let test_itself = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needs_an_interpreter(&test_itself).unwrap());
        assert!(needs_an_interpreter(b"no program").is_err());
    }

    #[test]
    fn names_without_a_registry_are_docker_hubs() {
        assert_eq!(qualified("dtm:latest"), "docker.io/library/dtm:latest");
        assert_eq!(qualified("someone/dtm:latest"), "docker.io/someone/dtm:latest");
        assert_eq!(qualified("localhost/dtm:latest"), "localhost/dtm:latest");
        assert_eq!(qualified("registry:5000/dtm:latest"), "registry:5000/dtm:latest");
    }
}
