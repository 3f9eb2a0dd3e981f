//! Between the answer and the building: everything arrives that must be here first.

use std::collections::HashMap;
use std::pin::Pin;

use image::{ImageSet, ImageSetBuilder, Limits, pagemap};
use pages::{ByteCount, PageCount, PageSet, SpaceId};
use tracee::chaos;
use transport::event::{Event, Watch};
use transport::quic::{DestinationLink, Incoming, LinkError, PageReceiver};
use transport::session::destination::{AfterFilling, Building, Checked, Filling};
use transport::stop::Stop;
use transport::wire::{BlobName, Control, Manifest};

use crate::failure::Cause;
use crate::files::{self, Files};

/// Everything that must be here before the tree can be built.
pub(crate) struct Gathered {
    pub(crate) images: ImageSet,
    /// Files of a container, if they come along.
    pub(crate) files: Option<Files>,
    pub(crate) manifest: Manifest,
    /// Pages that follow after the hand-over.
    pub(crate) owed: HashMap<SpaceId, PageSet>,
    /// A stream of pages that began to arrive before there was memory to put them in.
    pub(crate) bulk: Option<PageReceiver>,
}

/// What the session is in while images arrive.
pub(crate) enum Hearing {
    Checked(Checked),
    Filling(Filling),
    Building(Building, Manifest),
}

impl Hearing {
    fn receive(self, message: Control) -> Result<Self, Cause> {
        let next = match self {
            Self::Checked(checked) => checked.receive(message)?,
            Self::Filling(filling) => filling.receive(message)?,
            Self::Building(building, _) => {
                return Err(Cause::PeerAborted(building.receive(message)?));
            }
        };
        match next {
            AfterFilling::Freezing(filling) | AfterFilling::RoundEnd(filling, _) => {
                Ok(Self::Filling(filling))
            }
            AfterFilling::Manifest(building, manifest) => Ok(Self::Building(building, manifest)),
            // Rounds without having agreed on them.
            AfterFilling::Outline(..) => Err(Cause::UnexpectedLane),
            AfterFilling::Aborted(abort) => Err(Cause::PeerAborted(abort)),
        }
    }

    /// True once as many blobs are here as were announced.
    fn is_complete(&self, came: usize) -> bool {
        matches!(self, Self::Building(_, manifest) if manifest.blobs().len() == came)
    }
}

/// What is being read.
type Reading = Pin<Box<dyn Future<Output = Read>>>;

/// See [`Reading`].
enum Read {
    Image(BlobName, Result<Vec<u8>, LinkError>),
    Files(Box<Result<Files, Cause>>),
}

/// Receives the manifest, every image, and files if some come along. One blob is read at a time, so
/// that what is held is what the limits of a set allow, whatever the source opens.
pub(crate) async fn gather(
    link: &DestinationLink,
    mut hearing: Hearing,
    mut files: Option<Files>,
    stop: &mut Stop,
    watch: &mut dyn Watch,
) -> Result<(Building, Gathered), Cause> {
    chaos::point("destination:checked")?;
    let mut images = ImageSetBuilder::new(Limits::default());
    let mut reading: Option<Reading> = None;
    let mut bulk = None;
    loop {
        let came = images.len() + files.as_ref().map_or(0, Files::came);
        if reading.is_none() && hearing.is_complete(came) {
            break;
        }
        let idle = reading.is_none();
        let read = async {
            match reading.as_mut() {
                Some(reading) => reading.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = link.recv() => hearing = hearing.receive(message?)?,
            read = read => {
                reading = None;
                match read {
                    Read::Image(name, bytes) => images.insert(name.as_str(), bytes?)?,
                    Read::Files(read) => {
                        let read = (*read)?;
                        let done = read.done();
                        watch.event(Event::Files { count: done.files, bytes: done.bytes });
                        chaos::point("destination:files")?;
                        files = Some(read);
                    }
                }
            }
            lane = link.next_lane(), if idle => match lane? {
                Incoming::Blob(blob) if files::is_stream(blob.name().as_str()) => {
                    let due = files.take_if(|files| files.awaits(blob.name().as_str()));
                    let files = due.ok_or(Cause::UnexpectedLane)?;
                    reading = Some(Box::pin(async move { Read::Files(Box::new(files.receive(blob).await)) }));
                }
                Incoming::Blob(blob) => {
                    let (name, room) = (blob.name().clone(), ByteCount(images.room()));
                    reading = Some(Box::pin(async move { Read::Image(name, blob.read_all(room).await) }));
                }
                Incoming::Bulk(pages) if bulk.is_none() => bulk = Some(pages),
                Incoming::Bulk(_) | Incoming::Urgent(_) => return Err(Cause::UnexpectedLane),
            },
            () = stop.ended() => return Err(Cause::Interrupted),
        }
    }
    let Hearing::Building(building, manifest) = hearing else { unreachable!("it is complete") };
    let images = complete(images, &manifest)?;
    files.as_ref().map_or(Ok(()), |files| files.check(&manifest))?;
    let owed = owed(&images, &manifest)?;
    watch.event(Event::Images { count: images.len(), bytes: images.total_bytes() });
    watch.event(Event::Frozen { pages: total(&manifest).0 });
    chaos::point("destination:images")?;
    Ok((building, Gathered { images, files, manifest, owed, bulk }))
}

/// All pages that come, before or after the hand-over.
pub(crate) fn total(manifest: &Manifest) -> PageCount {
    manifest.spaces().iter().map(|space| space.sent + space.owed).sum()
}

/// Which pages follow after the hand-over: their pagemaps are among the images.
fn owed(images: &ImageSet, manifest: &Manifest) -> Result<HashMap<SpaceId, PageSet>, Cause> {
    let mut all = HashMap::new();
    for total in manifest.spaces().iter().filter(|total| total.owed.0 > 0) {
        let name = pagemap::image_name(total.space);
        let bytes = images.get(&name).unwrap_or_default();
        let owed = pagemap::owed(&name, bytes)?;
        if owed.count() != total.owed {
            return Err(Cause::OwedOtherwise { image: name, announced: total.owed.0 });
        }
        all.insert(total.space, owed);
    }
    Ok(all)
}

/// Every image of the manifest is here, and as long as it says.
pub(crate) fn complete(images: ImageSetBuilder, manifest: &Manifest) -> Result<ImageSet, Cause> {
    let images = images.seal()?;
    for blob in manifest.blobs().iter().filter(|blob| !files::is_stream(blob.name.as_str())) {
        let name = blob.name.as_str();
        let length = images.get(name).map(|bytes| bytes.len() as u64);
        if length != Some(blob.bytes.0) {
            let (image, announced) = (name.to_owned(), blob.bytes);
            return Err(Cause::OtherThanAnnounced {
                image,
                announced,
                came: length.map(ByteCount),
            });
        }
    }
    Ok(images)
}
