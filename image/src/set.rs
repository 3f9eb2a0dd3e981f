//! A whole set of images in memory: written, then sealed.

use std::collections::BTreeMap;

use crate::error::BadImage;
use crate::kind::{ImageKind, check_name};

/// How much an [`ImageSet`] may hold. Pages images are not part of a set and not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one image.
    pub image: u64,
    /// Bytes of all images.
    pub total: u64,
    /// Number of images; there is one for each thread.
    pub images: usize,
}

impl Default for Limits {
    /// 64 MiB an image, 256 MiB together, 131072 images: far above what processes need, unless they
    /// hold large deleted files.
    fn default() -> Self {
        Self { image: 64 << 20, total: 256 << 20, images: 1 << 17 }
    }
}

/// Images being collected, e.g. as they arrive.
#[derive(Debug, Default)]
pub struct ImageSetBuilder {
    limits: Limits,
    images: BTreeMap<String, Vec<u8>>,
    total: u64,
}

/// Named images, complete. The names are valid file names; the content is only alleged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSet {
    images: BTreeMap<String, Vec<u8>>,
}

impl ImageSetBuilder {
    /// An empty set that may grow up to `limits`.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Most bytes that the next image may have; lets a receiver stop reading in time.
    pub fn room(&self) -> u64 {
        self.limits.image.min(self.limits.total - self.total)
    }

    /// How many images there are so far.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// True before the first image.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Adds an image.
    pub fn insert(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), BadImage> {
        check_name(name)?;
        let size = bytes.len() as u64;
        if size > self.limits.image {
            return Err(BadImage::TooLarge { image: name.to_owned(), most: self.limits.image });
        }
        if size > self.limits.total - self.total {
            return Err(BadImage::SetTooLarge { most: self.limits.total });
        }
        if self.images.len() >= self.limits.images {
            return Err(BadImage::TooMany { most: self.limits.images });
        }
        if self.images.contains_key(name) {
            return Err(BadImage::Twice { image: name.to_owned() });
        }
        self.total += size;
        self.images.insert(name.to_owned(), bytes);
        Ok(())
    }

    /// The set is complete: it has an inventory, which is always written last.
    pub fn seal(self) -> Result<ImageSet, BadImage> {
        let inventory = ImageKind::Inventory.name(0);
        if !self.images.contains_key(&inventory) {
            return Err(BadImage::Missing { image: inventory });
        }
        Ok(ImageSet { images: self.images })
    }
}

impl ImageSet {
    /// For our own writers, whose names are right and come once.
    pub(crate) fn from_own(images: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self { images: images.into_iter().collect() }
    }

    /// Adds what is no image of CRIU's but travels with them.
    pub fn add(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), BadImage> {
        check_name(name)?;
        match self.images.insert(name.to_owned(), bytes) {
            None => Ok(()),
            Some(_) => Err(BadImage::Twice { image: name.to_owned() }),
        }
    }

    /// Takes out what [`Self::add`] put in.
    pub fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        self.images.remove(name)
    }

    /// The image with this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.images.get(name).map(Vec::as_slice)
    }

    /// Names and images; the inventory comes last.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let inventory = ImageKind::Inventory.name(0);
        let (last, others): (Vec<_>, Vec<_>) =
            self.images.iter().partition(|(name, _)| **name == inventory);
        others.into_iter().chain(last).map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Bytes of all images.
    pub fn total_bytes(&self) -> u64 {
        self.images.values().map(|bytes| bytes.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_kept() {
        let limits = Limits { image: 10, total: 15, images: 3 };
        let mut set = ImageSetBuilder::new(limits);
        set.insert("a", vec![0; 10]).expect("fits");
        assert!(matches!(set.insert("a", vec![]), Err(BadImage::Twice { .. })));
        assert!(matches!(set.insert("b", vec![0; 11]), Err(BadImage::TooLarge { .. })));
        assert!(matches!(set.insert("b", vec![0; 6]), Err(BadImage::SetTooLarge { .. })));
        assert_eq!(set.room(), 5);
        set.insert("b", vec![0; 5]).expect("fits exactly");
        set.insert("c", vec![]).expect("nothing always fits");
        assert!(matches!(set.insert("d", vec![]), Err(BadImage::TooMany { .. })));
        assert!(matches!(set.seal(), Err(BadImage::Missing { .. })));
    }

    #[test]
    fn the_inventory_is_last() {
        let mut set = ImageSetBuilder::new(Limits::default());
        for name in ["pstree.img", "inventory.img", "core-1.img"] {
            set.insert(name, name.into()).expect("fits");
        }
        let set = set.seal().expect("complete");
        let names: Vec<_> = set.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["core-1.img", "pstree.img", "inventory.img"]);
    }
}
