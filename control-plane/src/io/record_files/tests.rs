//! What the writer's own tests do not reach: a file system without user attributes.

use base::ids::{DiskId, Generation, VolumeId};
use datapath::io::backing::Direct;

use super::*;

#[test]
fn a_stamp_beside_the_image_speaks_of_one_inode() {
    let dir = tempfile::tempdir().expect("a folder");
    let image = dir.path().join("vol0.img");
    fs::write(&image, [0; 4096]).expect("an image");
    let open = || Arc::new(Backing::open(&image, 4096, Direct::Off).expect("not in use"));
    let stamp = Stamp {
        volume_id: VolumeId([1; 16]),
        disk_id: DiskId([2; 16]),
        generation: Generation([3; 16]),
        round: 4,
    };
    let place = StampPlace::Beside(beside(&image));
    StampFile { backing: open(), place }.write(&stamp).expect("durable");
    assert_eq!(read_beside(&beside(&image), &open()), Ok(stamp));
    let copy = dir.path().join("copy.img");
    fs::copy(&image, &copy).expect("a copy");
    fs::rename(&copy, &image).expect("in its place");
    let why = read_beside(&beside(&image), &open()).expect_err("another inode");
    assert!(why.contains("speaks of another file"), "{why}");
}
