//! Swap for a test: a file, or where the file system allows none a device of compressed memory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Swap that is gone again when this is dropped. The whole machine has it meanwhile.
#[derive(Debug)]
pub struct Swap {
    device: PathBuf,
    /// Number of a zram device of our own.
    zram: Option<u32>,
    _folder: TempDir,
}

impl Swap {
    /// Turns `mib` MiB of it on; why that is not possible.
    pub fn on(mib: u64) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("qmig-swap-").tempdir();
        let folder = folder.map_err(|error| error.to_string())?;
        let file = folder.path().join("swap");
        match in_file(&file, mib << 20) {
            Ok(()) => Ok(Self { device: file, zram: None, _folder: folder }),
            Err(no_file) => {
                let (number, device) = in_memory(mib << 20)
                    .map_err(|no_memory| format!("no swap here: {no_file}; {no_memory}"))?;
                Ok(Self { device, zram: Some(number), _folder: folder })
            }
        }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // Everything comes back into memory first.
        if let Err(error) = run(Command::new("swapoff").arg(&self.device)) {
            eprintln!("swap is left on: {error}");
        } else if let Some(number) = self.zram {
            let _ = fs::write("/sys/class/zram-control/hot_remove", number.to_string());
        }
    }
}

/// Written in full: swap has no holes.
fn in_file(path: &Path, bytes: u64) -> Result<(), String> {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    let mut file = File::create(path).map_err(|error| error.to_string())?;
    let piece = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        file.write_all(&piece).map_err(|error| error.to_string())?;
    }
    file.sync_all().map_err(|error| error.to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(|error| error.to_string())?;
    on(path)
}

fn in_memory(bytes: u64) -> Result<(u32, PathBuf), String> {
    let number = fs::read_to_string("/sys/class/zram-control/hot_add")
        .map_err(|error| format!("no zram: {error}"))?;
    let number: u32 = number.trim().parse().map_err(|_| "no zram: no number".to_owned())?;
    let device = PathBuf::from(format!("/dev/zram{number}"));
    let made = fs::write(format!("/sys/block/zram{number}/disksize"), bytes.to_string())
        .map_err(|error| error.to_string())
        .and_then(|()| on(&device));
    match made {
        Ok(()) => Ok((number, device)),
        Err(error) => {
            let _ = fs::write("/sys/class/zram-control/hot_remove", number.to_string());
            Err(error)
        }
    }
}

fn on(device: &Path) -> Result<(), String> {
    run(Command::new("mkswap").arg(device))?;
    run(Command::new("swapon").arg(device))
}

fn run(command: &mut Command) -> Result<(), String> {
    // /usr/sbin is not in every PATH.
    let path = std::env::var("PATH").unwrap_or_default();
    let output = command.env("PATH", format!("{path}:/usr/sbin:/sbin")).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
