//! The files of a node's record, of its volumes' headers and of their stamps: plain blocking reads
//! and durable writes.
//!
//! Owns: the open files and which slot comes next. Faults assumed: any call may fail; a crash may
//! tear the block being written, never another one.
//! Not here: what the bytes mean (`record`), who runs it (`record_writer`).

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::payload::PayloadBuf;
use datapath::io::backing::Backing;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::record::header::choose_header;
use crate::record::layout::{BLOCK_BYTES, LayoutError, SLOT_DISTANCE};
use crate::record::slots::SlotPlan;
use crate::record::stamp::{DEVICE_SLOT_DISTANCE, STAMP_BYTES, choose_stamp};
use crate::record::{NodeRecord, PlaceRead, SlotRead, Stamp, VolumeHeader};

/// Name of the record's file in each of its two folders.
pub const RECORD_FILE: &str = "record";
/// Extended attribute that holds a file's stamp.
pub const STAMP_ATTRIBUTE: &str = "user.stretch";

/// Opens for reading and writing; makes the file, for its owner only, if `create`.
fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}

/// Makes a folder's new entries durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The record's two places.
#[derive(Debug)]
pub struct Places {
    paths: [PathBuf; 2],
    files: [Option<File>; 2],
    plan: SlotPlan,
}

/// A record that could be made durable in no place.
#[derive(Debug)]
pub struct PlacesLost {
    /// The place that failed last.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
}

impl Places {
    /// Reads both places. A place that cannot be opened is read as such.
    pub fn read(record_dirs: &[PathBuf; 2]) -> (Self, [PlaceRead; 2]) {
        let paths = record_dirs.each_ref().map(|dir| dir.join(RECORD_FILE));
        let opened = paths.each_ref().map(|path| open(path, false));
        let reads = opened.each_ref().map(|file| match file {
            Ok(file) => read_place(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => PlaceRead::Absent,
            Err(error) => PlaceRead::Unreadable { why: error.to_string() },
        });
        let files = opened.map(Result::ok);
        (Self { paths, files, plan: SlotPlan::FRESH }, reads)
    }

    /// Writes go where this plan says; made from what was read.
    pub fn set_plan(&mut self, plan: SlotPlan) {
        self.plan = plan;
    }

    /// Makes both places; refuses if either is there.
    ///
    /// # Errors
    /// As mkdir(2) and open(2).
    pub fn create(record_dirs: &[PathBuf; 2]) -> io::Result<Self> {
        let paths = record_dirs.each_ref().map(|dir| dir.join(RECORD_FILE));
        let mut files = [None, None];
        for (path, file) in paths.iter().zip(&mut files) {
            let folder = path.parent().expect("a file in a folder");
            fs::create_dir_all(folder)?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            *file = Some(options.open(path)?);
            sync_folder(folder)?;
        }
        Ok(Self { paths, files, plan: SlotPlan::FRESH })
    }

    /// Makes `record` durable in both places, or twice in the one that is left; names a place that
    /// was lost on the way.
    ///
    /// # Errors
    /// Neither place takes it.
    pub fn write(&mut self, record: &NodeRecord) -> Result<Option<String>, PlacesLost> {
        let mut lost = None;
        let mut record = record.clone();
        let mut writes = VecDeque::from(self.plan.begin());
        while let Some(write) = writes.pop_front() {
            record.single = write.single;
            match self.write_slot(write.place, write.slot, &record.encode()) {
                Ok(()) => self.plan.written(write),
                Err(error) => {
                    let path = self.paths[write.place].clone();
                    writes = self.plan.failed(write).into();
                    if writes.is_empty() {
                        return Err(PlacesLost { path, error });
                    }
                    lost = Some(format!("{}: {error}", path.display()));
                }
            }
        }
        Ok(lost)
    }

    fn write_slot(&mut self, place: usize, slot: usize, block: &[u8]) -> io::Result<()> {
        if self.files[place].is_none() {
            // Absent or unreadable at the start: a fresh file is as good as any other.
            let path = &self.paths[place];
            let folder = path.parent().expect("a file in a folder");
            fs::create_dir_all(folder)?;
            self.files[place] = Some(open(path, true)?);
            sync_folder(folder)?;
        }
        let file = self.files[place].as_ref().expect("opened above");
        file.write_all_at(block, slot as u64 * SLOT_DISTANCE)?;
        file.sync_data()
    }
}

fn read_block(file: &File, slot: u64) -> Result<[u8; BLOCK_BYTES], LayoutError> {
    let mut block = [0; BLOCK_BYTES];
    match file.read_exact_at(&mut block, slot * SLOT_DISTANCE) {
        Ok(()) => Ok(block),
        // A slot that was never written, or that the disk no longer reads: bad, like a torn one.
        Err(_) => Err(LayoutError::Blank),
    }
}

fn read_place(file: &File) -> PlaceRead {
    PlaceRead::Slots([0, 1].map(|slot| {
        match read_block(file, slot).and_then(|block| NodeRecord::decode(&block)) {
            Ok(record) => SlotRead::Valid(Box::new(record)),
            Err(_) => SlotRead::Bad,
        }
    }))
}

/// The header of one volume's bitmap file.
#[derive(Debug)]
pub struct HeaderFile {
    /// For messages.
    pub path: PathBuf,
    file: Option<File>,
    next_slot: usize,
    sequence: u64,
}

impl HeaderFile {
    /// Opens and reads. A file that is missing or damaged is written anew when the time comes.
    pub fn read(path: PathBuf) -> (Self, Result<VolumeHeader, String>) {
        let file = match open(&path, false) {
            Ok(file) => file,
            Err(error) => {
                return (
                    Self { path, file: None, next_slot: 0, sequence: 0 },
                    Err(error.to_string()),
                );
            }
        };
        let slots =
            [0, 1].map(|slot| read_block(&file, slot).and_then(|b| VolumeHeader::decode(&b)));
        match choose_header(slots) {
            Ok((slot, header)) => {
                let (next_slot, sequence) = (1 - slot, header.header_seq);
                (Self { path, file: Some(file), next_slot, sequence }, Ok(header))
            }
            Err(error) => {
                (Self { path, file: Some(file), next_slot: 0, sequence: 0 }, Err(error.to_string()))
            }
        }
    }

    /// Makes `header` durable over the older slot, under the next sequence number.
    ///
    /// # Errors
    /// As open(2), pwrite(2) and fdatasync(2).
    pub fn write(&mut self, header: &VolumeHeader) -> io::Result<()> {
        if self.file.is_none() {
            let file = open(&self.path, true)?;
            sync_folder(self.path.parent().unwrap_or(Path::new(".")))?;
            self.file = Some(file);
        }
        let file = self.file.as_ref().expect("opened above");
        self.sequence = self.sequence.max(header.header_seq) + 1;
        let header = VolumeHeader { header_seq: self.sequence, ..*header };
        file.write_all_at(&header.encode(), self.next_slot as u64 * SLOT_DISTANCE)?;
        file.sync_data()?;
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }
}

/// Where a volume's stamp is kept.
#[derive(Debug)]
enum StampPlace {
    /// Extended attribute of the file.
    Attribute,
    /// A file beside it that names the inode, where attributes cannot be had.
    Beside(PathBuf),
    /// Behind the volume on a device: the slot and sequence of the next one.
    Tail { slot: usize, sequence: u64 },
}

/// The stamp of one volume.
#[derive(Debug)]
pub struct StampFile {
    backing: Arc<Backing>,
    place: StampPlace,
}

impl StampFile {
    /// Finds out where the stamp belongs and reads it.
    pub fn read(backing: Arc<Backing>) -> (Self, Result<Stamp, String>) {
        if backing.is_device() {
            let slots = [0, 1].map(|slot| {
                let block = read_tail(&backing, slot).map_err(|_| LayoutError::Blank)?;
                Stamp::decode(&block)
            });
            return match choose_stamp(slots) {
                Ok((slot, sequence, stamp)) => {
                    let place = StampPlace::Tail { slot: 1 - slot, sequence: sequence + 1 };
                    (Self { backing, place }, Ok(stamp))
                }
                Err(error) => {
                    let place = StampPlace::Tail { slot: 0, sequence: 1 };
                    (Self { backing, place }, Err(error.to_string()))
                }
            };
        }
        let mut bytes = [0u8; STAMP_BYTES + 1];
        match rustix::fs::fgetxattr(backing.fd(), STAMP_ATTRIBUTE, &mut bytes[..]) {
            Ok(STAMP_BYTES) => {
                let block = bytes.first_chunk().expect("long enough");
                let stamp = Stamp::decode(block).map(|(_, stamp)| stamp);
                (Self { backing, place: StampPlace::Attribute }, stamp.map_err(|e| e.to_string()))
            }
            Ok(_) | Err(Errno::RANGE) => {
                let why = format!("its attribute {STAMP_ATTRIBUTE} has a wrong length");
                (Self { backing, place: StampPlace::Attribute }, Err(why))
            }
            Err(Errno::OPNOTSUPP) => {
                let path = beside(backing.path());
                let stamp = read_beside(&path, &backing);
                (Self { backing, place: StampPlace::Beside(path) }, stamp)
            }
            Err(_) => {
                let why = format!("it has no attribute {STAMP_ATTRIBUTE}");
                (Self { backing, place: StampPlace::Attribute }, Err(why))
            }
        }
    }

    /// Makes `stamp` durable with the data.
    ///
    /// # Errors
    /// As fsetxattr(2), pwrite(2) and fsync(2).
    pub fn write(&mut self, stamp: &Stamp) -> io::Result<()> {
        let fd = self.backing.fd();
        match &mut self.place {
            StampPlace::Attribute => {
                let bytes = stamp.encode(0);
                rustix::fs::fsetxattr(fd, STAMP_ATTRIBUTE, &bytes, XattrFlags::empty())?;
                // An attribute is metadata that fdatasync may leave out.
                rustix::fs::fsync(fd)?;
            }
            StampPlace::Beside(path) => {
                let mut bytes = stamp.encode(0).to_vec();
                bytes.extend_from_slice(&inode_bytes(&self.backing)?);
                let crc = crc32c::crc32c(&bytes);
                bytes.extend_from_slice(&crc.to_le_bytes());
                let fresh = path.with_extension("stamp.new");
                let file = open(&fresh, true)?;
                file.set_len(0)?;
                file.write_all_at(&bytes, 0)?;
                file.sync_all()?;
                fs::rename(&fresh, &path)?;
                sync_folder(path.parent().unwrap_or(Path::new(".")))?;
            }
            StampPlace::Tail { slot, sequence } => {
                write_tail(&self.backing, *slot, &stamp.encode(*sequence))?;
                *slot = 1 - *slot;
                *sequence += 1;
            }
        }
        Ok(())
    }
}

fn beside(image: &Path) -> PathBuf {
    let mut name = image.file_name().unwrap_or_default().to_owned();
    name.push(".stamp");
    image.with_file_name(name)
}

/// Device, inode and birth time of the image: a replaced file has others.
fn inode_bytes(backing: &Backing) -> io::Result<[u8; 32]> {
    let file = File::from(backing.fd().try_clone_to_owned()?);
    let meta = file.metadata()?;
    let born = meta.created().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    let born = born.map_or(0, |d| d.as_nanos());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&meta.dev().to_le_bytes());
    bytes[8..16].copy_from_slice(&meta.ino().to_le_bytes());
    bytes[16..].copy_from_slice(born.as_bytes());
    Ok(bytes)
}

fn read_beside(path: &Path, backing: &Backing) -> Result<Stamp, String> {
    let file = open(path, false).map_err(|error| error.to_string())?;
    let mut bytes = [0; STAMP_BYTES + 36];
    file.read_exact_at(&mut bytes, 0).map_err(|error| error.to_string())?;
    let (body, crc) = bytes.split_at(STAMP_BYTES + 32);
    if crc32c::crc32c(body).to_le_bytes() != crc {
        return Err(format!("{} is damaged", path.display()));
    }
    let inode = inode_bytes(backing).map_err(|error| error.to_string())?;
    if body[STAMP_BYTES..] != inode {
        return Err(format!("{} speaks of another file", path.display()));
    }
    let block = body.first_chunk().expect("long enough");
    Stamp::decode(block).map(|(_, stamp)| stamp).map_err(|error| error.to_string())
}

/// A page of a device's tail; direct I/O needs whole aligned ones.
fn read_tail(backing: &Backing, slot: usize) -> io::Result<[u8; STAMP_BYTES]> {
    let offset = backing.size() + slot as u64 * DEVICE_SLOT_DISTANCE;
    let mut page = PayloadBuf::with_length(BLOCK_BYTES);
    let count = page.fill_with(|space| rustix::io::pread(backing.fd(), space, offset))?;
    if count < BLOCK_BYTES {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(*page.freeze().first_chunk().expect("a page is longer"))
}

fn write_tail(backing: &Backing, slot: usize, stamp: &[u8; STAMP_BYTES]) -> io::Result<()> {
    let offset = backing.size() + slot as u64 * DEVICE_SLOT_DISTANCE;
    let mut page = PayloadBuf::with_length(BLOCK_BYTES);
    page.fill_from(stamp);
    page.fill_from(&[0; BLOCK_BYTES - STAMP_BYTES]);
    let page = page.freeze();
    if rustix::io::pwrite(backing.fd(), &page, offset)? < page.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(rustix::fs::fdatasync(backing.fd().as_fd())?)
}

#[cfg(test)]
#[path = "record_files/tests.rs"]
mod tests;
