//! A CRIU that has done everything for which it needs no image by the time images come.
//!
//! Before it opens its first image CRIU looks at its kernel, for tens of milliseconds in which nothing
//! else can happen. That image is a pipe with a name here: so it is through with that when somebody
//! writes into the pipe, and waits for it if it comes too early.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rustix::io::ioctl_fionread;

use crate::binary::Criu;
use crate::error::{Error, Result};
use crate::lazy_socket::LazySocket;
use crate::restore::{RestoreOptions, Restoring};
use crate::rpc::Worker;
use crate::scratch::Scratch;
use crate::work::Work;

/// The image that CRIU opens first, and the last one to be written.
pub const INVENTORY: &str = "inventory.img";
/// What fits into a pipe at once, pipe(7); an inventory is far smaller.
const AT_ONCE: usize = 4096;
/// No image begins like this.
const NO_IMAGE: [u8; 64] = [0; 64];
/// Between two looks whether CRIU has read it: it has, at once, unless it is still busy.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// It reads it soon.
const SOON: Duration = Duration::from_secs(30);

/// See above. Dropped, CRIU ends.
#[derive(Debug)]
pub struct Standby(Option<Parts>);

#[derive(Debug)]
struct Parts {
    /// Both ends: so CRIU waits for bytes, not for somebody to open it.
    inventory: File,
    worker: Worker,
    work: Work,
    lazy: LazySocket,
}

impl Criu {
    /// Starts one that will restore what is put into `images`, lazily; see [`Standby::restore`].
    pub fn stand_by(&self, options: RestoreOptions, images: &Scratch) -> Result<Standby> {
        let act = "let CRIU wait for images";
        let path = images.path().join(INVENTORY);
        mkfifo(&path, Mode::from_bits_truncate(0o600)).map_err(Error::errno(act))?;
        let inventory = OpenOptions::new().read(true).write(true).open(&path);
        let inventory = inventory.map_err(Error::os(act))?;
        let work = Work::beside(images);
        let lazy = LazySocket::listen(&work)?;
        let worker = Worker::start(self, None)?;
        let mut parts = Parts { inventory, worker, work, lazy };
        parts.worker.ask_for_restore(options, true, images, &parts.work)?;
        Ok(Standby(Some(parts)))
    }
}

impl Standby {
    /// Everything but this inventory is in `images`, which are those that it was started with: it may go
    /// on. So many processes live.
    pub fn restore(
        mut self,
        images: Scratch,
        inventory: &[u8],
        living: usize,
    ) -> Result<Restoring> {
        let act = "give CRIU its first image";
        let parts = self.0.as_mut().expect("until it restores or is dropped");
        parts.say(inventory).map_err(Error::os(act))?;
        // Closed, the pipe has an end.
        let Parts { worker, work, lazy, .. } = self.0.take().expect("it is there");
        Ok(Restoring::begun(worker, images, work, Some((lazy, living))))
    }
}

impl Parts {
    /// Writes what CRIU is to read, and waits until it has, or has ended.
    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > AT_ONCE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.inventory.write_all(bytes)?;
        let begun = Instant::now();
        while ioctl_fionread(&self.inventory)? > 0 && !self.worker.has_ended() {
            if begun.elapsed() > SOON {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

impl Drop for Standby {
    /// CRIU reads what is no image, and fails; it has made nothing yet.
    fn drop(&mut self) {
        if let Some(mut parts) = self.0.take() {
            let _ = parts.say(&NO_IMAGE);
            let Parts { inventory, mut worker, .. } = parts;
            drop(inventory);
            let _ = worker.end();
        }
    }
}
