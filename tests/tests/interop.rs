//! Other people's programs as hosts: what goes in through one node comes out through the other.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use stretch_tests::chaos::netns::{isolated, run};
use stretch_tests::real::pair::Pair;

const SIZE: u64 = 96 << 20;

fn uri(node: usize) -> String {
    format!("nbd://{}/vol0", Pair::nbd(node))
}

fn text(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

fn assert_equal_images(pair: &Pair) {
    run("cmp", &[&text(&pair.image(0)), &text(&pair.image(1))]);
}

/// A file with an ext4 file system that holds something.
fn ext4_image(folder: &Path) -> String {
    let content = folder.join("content");
    fs::create_dir(&content).expect("made");
    for number in 0..40u32 {
        let bytes: Vec<u8> = (0..50_000u32).map(|i| (i * number % 251) as u8).collect();
        fs::write(content.join(format!("file{number}")), bytes).expect("written");
    }
    let image = text(&folder.join("ext4.img"));
    fs::File::create(&image).and_then(|file| file.set_len(SIZE)).expect("made");
    run("mkfs.ext4", &["-q", "-F", "-d", &text(&content), &image]);
    image
}

#[test]
fn an_ext4_image_goes_in_through_a_and_is_found_through_b() {
    isolated("an_ext4_image_goes_in_through_a_and_is_found_through_b", || {
        let mut pair = Pair::running(SIZE);
        let image = ext4_image(pair.folder());
        run("nbdcopy", &["--connections=4", "--requests=16", "--flush", &image, &uri(0)]);
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &uri(1)]);
        let copy = text(&pair.folder().join("copy.img"));
        run("nbdcopy", &[&uri(1), &copy]);
        run("cmp", &[&image, &copy]);
        pair.stop();
        assert_equal_images(&pair);
        run("cmp", &[&image, &text(&pair.image(1))]);
    });
}

#[test]
fn qemu_io_writes_zeroes_discards_and_reads_through_the_other_node() {
    isolated("qemu_io_writes_zeroes_discards_and_reads_through_the_other_node", || {
        let mut pair = Pair::running(SIZE);
        let write = ["write -P 0xab 0 1M", "write -z -u 64k 128k", "discard 512k 64k", "flush"];
        let mut arguments = vec!["-f", "raw"];
        for command in write.iter().chain(&["write -f -P 1 2M 4k", "write -P 7 3M 512"]) {
            arguments.extend(["-c", *command]);
        }
        let (through, back) = (uri(0), uri(1));
        arguments.push(&through);
        run("qemu-io", &arguments);
        let read = [
            "read -P 0xab 0 64k",
            "read -P 0 64k 128k",
            "read -P 0xab 192k 320k",
            "read -P 0 512k 64k",
            "read -P 0xab 576k 448k",
            "read -P 1 2M 4k",
            "read -P 7 3M 512",
        ];
        let mut arguments = vec!["-f", "raw"];
        for command in &read {
            arguments.extend(["-c", *command]);
        }
        arguments.push(&back);
        let told = run("qemu-io", &arguments);
        assert!(!told.contains("verification failed"), "{told}");
        let told = run("nbdinfo", &[&back]);
        for line in ["can_multi_conn: true", "can_fua: true", "can_zero: true", "can_df: true"] {
            assert!(told.contains(line), "{line} in\n{told}");
        }
        pair.stop();
        assert_equal_images(&pair);
    });
}

fn fio(name: &str, node: usize, offset: u64, more: &[&str]) -> Child {
    let mut command = Command::new("fio");
    command.args(["--ioengine=nbd", "--bs=4k", "--iodepth=16", "--verify=crc32c"]);
    command.arg("--verify_state_save=0");
    command.args([&format!("--name={name}"), &format!("--uri={}", uri(node))]);
    command.args([&format!("--offset={offset}"), &format!("--size={}", SIZE / 2)]);
    command.args(more).stdout(Stdio::null());
    command.spawn().expect("fio can be started")
}

#[test]
fn fio_writes_halves_through_both_nodes_and_verifies_through_the_other() {
    isolated("fio_writes_halves_through_both_nodes_and_verifies_through_the_other", || {
        let mut pair = Pair::running(SIZE);
        let write = ["--rw=randwrite", "--do_verify=0", "--randrepeat=1"];
        let both = [fio("low", 0, 0, &write), fio("high", 1, SIZE / 2, &write)];
        for mut child in both {
            assert!(child.wait().expect("fio ends").success(), "fio writes");
        }
        let verify = ["--rw=read", "--verify_fatal=1"];
        let both = [fio("low", 1, 0, &verify), fio("high", 0, SIZE / 2, &verify)];
        for mut child in both {
            assert!(child.wait().expect("fio ends").success(), "fio verifies");
        }
        pair.stop();
        assert_equal_images(&pair);
    });
}

/// An export as a file, by nbdfuse, and that file as a loop device.
struct Loop {
    fuse: Child,
    mountpoint: String,
    device: String,
}

impl Loop {
    fn over(node: usize, folder: &Path) -> Self {
        let mountpoint = text(&folder.join(format!("fuse{node}")));
        fs::create_dir_all(&mountpoint).expect("made");
        let fuse = Command::new("nbdfuse").args([&mountpoint, &uri(node)]).spawn();
        let fuse = fuse.expect("nbdfuse can be started");
        let file = format!("{mountpoint}/nbd");
        let began = Instant::now();
        while !Path::new(&file).exists() {
            assert!(began.elapsed() < Duration::from_secs(10), "nbdfuse shows no file");
            thread::sleep(Duration::from_millis(20));
        }
        let device = run("losetup", &["-f", "--show", &file]).trim().to_owned();
        Self { fuse, mountpoint, device }
    }

    fn close(mut self) {
        run("losetup", &["-d", &self.device]);
        run("fusermount3", &["-u", &self.mountpoint]);
        self.fuse.wait().expect("nbdfuse ends");
    }
}

#[test]
fn a_file_system_on_a_loop_device_made_through_a_is_clean_through_b() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("not run: loop devices and mounts need root and /dev/fuse");
        return;
    }
    isolated("a_file_system_on_a_loop_device_made_through_a_is_clean_through_b", || {
        let mut pair = Pair::running(SIZE);
        let a = Loop::over(0, pair.folder());
        run("mkfs.ext4", &["-q", "-F", &a.device]);
        let mounted = text(&pair.folder().join("mounted"));
        fs::create_dir(&mounted).expect("made");
        run("mount", &[&a.device, &mounted]);
        let file = format!("--filename={mounted}/data");
        let job = ["--name=x", "--rw=randwrite", "--bs=4k", "--size=16m", "--verify_state_save=0"];
        run("fio", &[&job[..], &[&file, "--verify=crc32c", "--verify_fatal=1"]].concat());
        run("umount", &[&mounted]);
        a.close();
        let b = Loop::over(1, pair.folder());
        run("e2fsck", &["-f", "-n", &b.device]);
        b.close();
        pair.stop();
        assert_equal_images(&pair);
    });
}

#[test]
fn hosts_attach_over_tls_with_their_certificates_and_not_without() {
    isolated("hosts_attach_over_tls_with_their_certificates_and_not_without", || {
        let mut pair = Pair::prepare(SIZE);
        for node in 0..2 {
            pair.edit_config(node, "tls = \"off\"", "tls = \"required\"");
        }
        pair.start();
        let pki = text(&pair.folder().join("pki/host1"));
        let object = format!("tls-creds-x509,id=t0,dir={pki},endpoint=client");
        let image = |node: usize| {
            format!(
                "driver=nbd,server.type=inet,server.host={},server.port=10809,export=vol0,\
                 tls-creds=t0",
                Pair::ADDRESSES[node]
            )
        };
        let through = |node: usize, command: &str| {
            run("qemu-io", &["--object", &object, "-c", command, "--image-opts", &image(node)])
        };
        through(0, "write -P 0x5a 1M 64k");
        let told = through(1, "read -P 0x5a 1M 64k");
        assert!(!told.contains("verification failed"), "{told}");
        let plain = Command::new("nbdinfo").arg(uri(0)).output().expect("nbdinfo can be started");
        assert!(!plain.status.success(), "plain text is refused where TLS is required");
        // libnbd's tools and fio look for root's certificates in one place only.
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/etc/pki/libnbd").expect("made");
            run("mount", &["--bind", &pki, "/etc/pki/libnbd"]);
            let secure = uri(0).replace("nbd://", "nbds://");
            assert!(run("nbdinfo", &[&secure]).contains("TLS"));
            let uri = format!("--uri={secure}");
            let job =
                ["--name=x", "--ioengine=nbd", &uri, "--rw=randwrite", "--verify_state_save=0"];
            run("fio", &[&job[..], &["--size=4m", "--verify=crc32c", "--iodepth=8"]].concat());
        }
        pair.stop();
        assert_equal_images(&pair);
    });
}
