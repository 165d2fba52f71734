//! An image small enough to make on the spot, and skopeo to push, pull and delete it.

use std::{path::Path, process::Command, time::Duration};

use super::{Folder, process::run, tool, unique};

const BOUND: Duration = Duration::from_secs(60);

/// An OCI layout of one layer; no two have the same content.
pub struct Image {
    folder: Folder,
    /// Of the manifest: `sha256:…`. `push` keeps it.
    pub digest: String,
    pub layer_digest: String,
    pub config_digest: String,
}

impl Image {
    pub fn new() -> Self {
        let folder = Folder::new("image");
        std::fs::create_dir_all(folder.join("blobs/sha256")).expect("a folder for blobs");
        let layer = tar("hello.txt", unique("hello").as_bytes());
        let (layer_digest, layer_size) = blob(&folder, &layer);
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{layer_digest}"]}}}}"#
        );
        let (config_digest, config_size) = blob(&folder, config.as_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer_digest}","size":{layer_size}}}]}}"#
        );
        let (digest, size) = blob(&folder, manifest.as_bytes());
        folder.write("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        folder.write(
            "index.json",
            format!(
                r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size},"annotations":{{"org.opencontainers.image.ref.name":"image"}}}}]}}"#
            ),
        );
        Self { folder, digest, layer_digest, config_digest }
    }

    /// `repository` includes the registry: `127.0.0.1:PORT/team/app`.
    pub async fn push(&self, repository: &str, tag: &str) {
        let source = format!("oci:{}:image", self.folder.path().display());
        let destination = format!("docker://{repository}:{tag}");
        skopeo(
            "skopeo push",
            &["copy", "--preserve-digests", "--dest-tls-verify=false", &source, &destination],
        )
        .await;
    }
}

/// Makes a new image and pushes it.
pub async fn push(repository: &str, tag: &str) -> Image {
    let image = Image::new();
    image.push(repository, tag).await;
    image
}

/// Pulls manifest, configuration and layer into a folder that goes at once.
pub async fn pull(repository: &str, tag: &str) {
    let folder = Folder::new("pull");
    let (source, destination) =
        (format!("docker://{repository}:{tag}"), format!("oci:{}:pulled", folder.path().display()));
    skopeo("skopeo pull", &["copy", "--src-tls-verify=false", &source, &destination]).await;
}

/// Deletes the manifest that the tag names.
pub async fn delete(repository: &str, tag: &str) {
    skopeo("skopeo delete", &["delete", "--tls-verify=false", &format!("docker://{repository}:{tag}")]).await;
}

async fn skopeo(what: &str, arguments: &[&str]) {
    let mut command = Command::new(tool("RELAY_TEST_SKOPEO", "skopeo"));
    // Neither the machine's trust policy nor its proxies have a say on loopback.
    command
        .arg("--insecure-policy")
        .args(arguments)
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1");
    run(what, command, BOUND).await;
}

fn blob(folder: &Folder, content: &[u8]) -> (String, usize) {
    let hex = sha256(content);
    folder.write(Path::new("blobs/sha256").join(&hex).to_str().expect("UTF-8"), content);
    (format!("sha256:{hex}"), content.len())
}

/// rustls is linked anyway and has the hash; a crate for it alone is not needed.
pub fn sha256(content: &[u8]) -> String {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let suite = suite.tls13().expect("a TLS 1.3 suite");
    let hash = suite.common.hash_provider.hash(content);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A ustar archive of one file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}
