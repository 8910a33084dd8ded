//! The images that `make images` packs without an engine: what they hold, that they are the same bytes each time, and
//! that a registry has them by the digests that were printed.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tests::built;
use tests::process::Process;
use tests::run::RunDirectory;
use tests::wait;

/// Program headers of this type name a dynamic linker.
const PT_INTERP: u32 = 3;

fn script(name: &str) -> Command {
    Command::new(built::workspace().join(".ci").join(name))
}

fn stdout(output: Output) -> String {
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

fn images() -> PathBuf {
    built::target().join("images")
}

/// The names and digests that `make images` printed.
fn digests() -> BTreeMap<String, String> {
    let list = fs::read_to_string(images().join("digests"));
    let list = list.unwrap_or_else(|error| panic!("{error}: run `make images` first"));
    list.lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, digest)| (name.to_owned(), digest.to_owned()))
        .collect()
}

/// A layout's blob, held against its name.
fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let bytes = fs::read(layout.join("blobs/sha256").join(digest)).unwrap();
    let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hash, digest);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

/// An image: its configuration, its only layer's descriptor, and that layer unpacked.
struct Image {
    config: Value,
    layer: Value,
    root: TempDir,
}

impl Image {
    fn read(name: &str) -> Self {
        let layout = images().join(name);
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        let [descriptor] = &index["manifests"].as_array().unwrap()[..] else {
            panic!("{index}");
        };
        assert_eq!(descriptor["digest"], digests()[name].as_str());
        let manifest: Value = serde_json::from_slice(&blob(&layout, descriptor)).unwrap();
        let [layer] = &manifest["layers"].as_array().unwrap()[..] else {
            panic!("{manifest}");
        };
        let root = tempfile::tempdir().unwrap();
        let archive = root.path().with_extension("tar.gz");
        fs::write(&archive, blob(&layout, layer)).unwrap();
        let unpacked = Command::new("tar")
            .args(["--extract", "--gzip", "--file"])
            .arg(&archive)
            .current_dir(&root)
            .output();
        fs::remove_file(&archive).unwrap();
        stdout(unpacked.unwrap());
        Self {
            config: serde_json::from_slice(&blob(&layout, &manifest["config"])).unwrap(),
            layer: layer.clone(),
            root,
        }
    }

    /// Every path in it.
    fn paths(&self) -> Vec<String> {
        let found = Command::new("find")
            .args([".", "-mindepth", "1"])
            .current_dir(&self.root)
            .output();
        let mut paths: Vec<_> = stdout(found.unwrap()).lines().map(str::to_owned).collect();
        paths.sort();
        paths
    }
}

#[test]
fn the_filters_image_holds_the_shipped_module_where_istio_looks_for_it() {
    let image = Image::read("filter");
    assert_eq!(image.layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    assert_eq!(image.paths(), ["./plugin.wasm"]);
    let packed = fs::read(image.root.path().join("plugin.wasm")).unwrap();
    assert!(packed == fs::read(built::filter().unwrap()).unwrap());
}

/// The types of the program headers of a 64-bit little-endian ELF file.
fn program_headers(elf: &[u8]) -> Vec<u32> {
    let number = |at: usize, bytes: usize| {
        let digits = elf[at..at + bytes].iter().rev();
        digits.fold(0_usize, |number, digit| number << 8 | usize::from(*digit))
    };
    assert_eq!(elf[..6], [0x7f, b'E', b'L', b'F', 2, 1]);
    let (start, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    (0..count)
        .map(|n| u32::try_from(number(start + n * size, 4)).unwrap())
        .collect()
}

#[test]
fn the_policy_servers_image_holds_one_static_binary_and_nothing_else() {
    let image = Image::read("policy-server");
    assert_eq!(image.paths(), ["./bin", "./bin/ostiary"]);
    assert_eq!(
        image.config["config"]["Entrypoint"],
        serde_json::json!(["/bin/ostiary"])
    );
    // Kubernetes believes `runAsNonRoot` of a number only.
    assert_eq!(image.config["config"]["User"], "65532:65532");

    let binary = image.root.path().join("bin/ostiary");
    assert!(!program_headers(&fs::read(&binary).unwrap()).contains(&PT_INTERP));
    // What cargo builds for this machine is not static: the check can tell.
    assert!(program_headers(&fs::read(built::ostiary().unwrap()).unwrap()).contains(&PT_INTERP));
    let version = stdout(Command::new(&binary).arg("--version").output().unwrap());
    let title = &image.config["config"]["Labels"]["org.opencontainers.image.version"];
    assert_eq!(version.trim(), format!("ostiary {}", title.as_str().unwrap()));
}

#[test]
fn no_image_says_where_it_was_built() {
    let home = std::env::var("HOME").unwrap();
    let workspace = built::workspace();
    for needle in [home.as_str(), workspace.to_str().unwrap()] {
        let image = Image::read("policy-server");
        let binary = fs::read(image.root.path().join("bin/ostiary")).unwrap();
        let shown = binary
            .windows(needle.len() + 1)
            .filter(|bytes| bytes.starts_with(needle.as_bytes()) && bytes.last() == Some(&b'/'));
        assert_eq!(shown.count(), 0, "{needle}");
    }
}

/// A folder with one of everything, made in an order, with modes and times that depend on `turn`.
fn folder(turn: u64) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let mut names = ["b/run", "a", "b/keep", "z"];
    if turn % 2 == 1 {
        names.reverse();
    }
    fs::create_dir(root.path().join("b")).unwrap();
    for name in names {
        let path = root.path().join(name);
        fs::write(&path, name).unwrap();
        let owner = if name == "b/run" { 0o700 } else { 0o600 };
        let others = if turn % 2 == 1 { 0o044 } else { 0 };
        fs::set_permissions(&path, fs::Permissions::from_mode(owner | others)).unwrap();
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + turn);
        fs::File::open(&path).unwrap().set_modified(changed).unwrap();
    }
    symlink("b/run", root.path().join("link")).unwrap();
    root
}

fn layout(root: &Path, out: &Path) -> Output {
    script("oci-layout").arg(out).arg("--root").arg(root).output().unwrap()
}

/// Every file of a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let found = Command::new("find")
        .args([".", "-type", "f"])
        .current_dir(folder)
        .output();
    stdout(found.unwrap())
        .lines()
        .map(|path| (PathBuf::from(path), fs::read(folder.join(path)).unwrap()))
        .collect()
}

#[test]
fn the_same_files_give_the_same_bytes_whoever_packs_them_and_when() {
    let out = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| out.path().join(name));
    let digest = stdout(layout(folder(0).path(), &first));
    assert_eq!(stdout(layout(folder(1).path(), &second)), digest);
    assert!(files(&first) == files(&second));

    let changed = folder(0);
    fs::write(changed.path().join("a"), "another").unwrap();
    assert_ne!(stdout(layout(changed.path(), &second)), digest);
    let executable = folder(0);
    fs::set_permissions(executable.path().join("a"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_ne!(stdout(layout(executable.path(), &second)), digest);
}

#[test]
fn what_no_image_should_hold_is_refused_and_nothing_is_emptied_by_mistake() {
    let out = tempfile::tempdir().unwrap();
    let root = folder(0);
    let made = out.path().join("made");
    stdout(layout(root.path(), &made));
    stdout(layout(root.path(), &made));

    let kept = out.path().join("kept");
    fs::create_dir(&kept).unwrap();
    let refused = layout(root.path(), &kept);
    assert!(!refused.status.success());
    assert!(
        String::from_utf8(refused.stderr)
            .unwrap()
            .contains("not an image layout")
    );

    let _socket = UnixListener::bind(root.path().join("socket")).unwrap();
    let refused = layout(root.path(), &made);
    assert!(!refused.status.success());
    assert!(
        String::from_utf8(refused.stderr)
            .unwrap()
            .contains("/socket: neither a file")
    );
    assert!(!made.join("index.json").exists());
}

/// A registry of the test's own, on loopback.
struct Registry {
    address: String,
    _process: Process,
}

fn crane() -> PathBuf {
    std::env::var_os("CRANE").map_or_else(|| built::target().join("tools/bin/crane"), PathBuf::from)
}

impl Registry {
    async fn start(run: &RunDirectory) -> Self {
        let mut command = Command::new(crane());
        command.args(["registry", "serve", "--address", "127.0.0.1:0"]);
        let process = Process::spawn("registry", &command, &run.file("registry.log")).unwrap();
        let port = wait::until("the registry's port", Duration::from_secs(20), async || {
            let log = process.log_tail();
            Some(log.split_once("serving on port ")?.1.lines().next()?.to_owned())
        })
        .await
        .unwrap();
        Self {
            address: format!("127.0.0.1:{port}"),
            _process: process,
        }
    }

    fn push(&self, images: &Path) -> Output {
        let repository = format!("{}/ostiary", self.address);
        script("push")
            .arg(images)
            .args([repository.as_str(), "test"])
            .env("CRANE", crane())
            .output()
            .unwrap()
    }
}

#[tokio::test]
async fn a_registry_has_the_images_by_the_digests_that_were_printed() {
    let run = RunDirectory::create("images").unwrap();
    let registry = Registry::start(&run).await;
    let pushed = stdout(registry.push(&images()));
    let expected: String = digests()
        .iter()
        .map(|(name, digest)| format!("{}/ostiary/{name}@{digest}\n", registry.address))
        .collect();
    assert_eq!(pushed, expected);
    for reference in pushed.lines() {
        let digest = stdout(Command::new(crane()).args(["digest", reference]).output().unwrap());
        assert!(reference.ends_with(digest.trim()), "{reference}: {digest}");
        stdout(
            Command::new(crane())
                .args(["validate", "--remote", reference])
                .output()
                .unwrap(),
        );
    }
}

#[tokio::test]
async fn a_push_of_other_bytes_than_were_printed_is_noticed() {
    let run = RunDirectory::create("images-other").unwrap();
    let registry = Registry::start(&run).await;
    let other = tempfile::tempdir().unwrap();
    let digest = stdout(layout(folder(0).path(), &other.path().join("filter")));
    fs::write(other.path().join("digests"), format!("filter {digest}")).unwrap();
    stdout(registry.push(other.path()));

    let root = folder(0);
    fs::write(root.path().join("a"), "another").unwrap();
    stdout(layout(root.path(), &other.path().join("filter")));
    let noticed = registry.push(other.path());
    assert!(!noticed.status.success());
    assert!(
        String::from_utf8(noticed.stderr)
            .unwrap()
            .contains(&format!("not {}", digest.trim()))
    );
}
