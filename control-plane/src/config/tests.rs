use super::*;

const GOOD: &str = r#"
[node]
name = "a"
site = "left"
data_dir = "a"
record_dirs = ["a/record-1", "a/record-2"]
address = "127.0.0.11:10810"

[tls]
dir = "pki/a"

[nbd]
listen = "127.0.0.11:10809"
tls = "off"

[peer]
name = "b"
address = "127.0.0.12:10810"

[pair]
id = "00112233-4455-6677-8899-aabbccddeeff"
witnesses = [{ name = "w", address = "127.0.0.13:10812" }]

[[volume]]
name = "vol0"
id = "10112233-4455-6677-8899-aabbccddeeff"
size = "1GiB"
path = "a/vol0.img"

[[volume]]
name = "vol1"
id = "20112233-4455-6677-8899-aabbccddeeff"
size = 4096
path = "/srv/vol1.img"
direct = "on"

[admin]
listen = "127.0.0.11:10811"

[metrics]
listen = "127.0.0.11:10813"
"#;

fn parse(text: &str) -> Result<NodeConfig, ConfigError> {
    NodeConfig::parse(Path::new("dir/a.toml"), text)
}

fn good() -> NodeConfig {
    parse(GOOD).expect("the example is good")
}

/// The message for the example with `from` replaced by `to`.
fn refusal(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from} is not in the example");
    let error = parse(&GOOD.replacen(from, to, 1)).expect_err("must be refused");
    error.to_string()
}

#[test]
fn a_good_file_is_read_with_defaults_and_paths_from_its_folder() {
    let config = good();
    assert_eq!(config.node.data_dir, Path::new("dir/a"));
    assert_eq!(config.node.record_dirs[1], Path::new("dir/a/record-2"));
    assert_eq!(config.admin.socket, Path::new("dir/a/admin.sock"));
    assert_eq!(config.node.log, "info");
    assert_eq!(config.nbd.tls, NbdTls::Off);
    assert_eq!(config.volumes[0].size, Some(1 << 30));
    assert_eq!(config.volumes[0].direct, Direct::Auto);
    assert_eq!(config.volumes[1].size, Some(4096));
    assert_eq!(config.volumes[1].path, Path::new("/srv/vol1.img"));
    let pair = config.pair.expect("is there");
    assert_eq!(pair.preferred.as_str(), "a");
    assert_eq!(pair.timers, TimerPreset::Default);
    assert_eq!(pair.witnesses.len(), 1);
}

#[test]
fn what_is_kept_but_not_used_yet_is_named() {
    let named = |text: &str| parse(text).expect("good").not_used_yet().join("\n");
    let witness = "witnesses = [{ name = \"w\", address = \"127.0.0.13:10812\" }]";
    let none = GOOD.replace(witness, "");
    let confirmed = GOOD.replace(witness, "read_mode = \"confirmed\"");
    assert_eq!(named(&none), "");
    assert_eq!(named(GOOD), "pair.witnesses is kept, but not used yet: no witness is asked");
    assert!(named(&confirmed).starts_with("pair.read_mode = \"confirmed\" is kept, but not used"));
    let both = GOOD.replace(witness, &format!("read_mode = \"confirmed\"\n{witness}"));
    assert_eq!(named(&both).lines().count(), 2);
}

#[test]
fn nbd_is_encrypted_unless_said_otherwise() {
    let config = parse(&GOOD.replace("tls = \"off\"", "")).expect("good");
    assert_eq!(config.nbd.tls, NbdTls::Required);
}

#[test]
fn every_preset_has_a_word() {
    for (word, preset) in [
        ("default", TimerPreset::Default),
        ("lan-fast", TimerPreset::LanFast),
        ("metro", TimerPreset::Metro),
        ("noisy", TimerPreset::Noisy),
    ] {
        let text = GOOD.replace("[pair]\n", &format!("[pair]\ntimers = \"{word}\"\n"));
        assert_eq!(parse(&text).expect("good").pair.expect("is there").timers, preset);
    }
}

#[test]
fn what_a_lone_letter_may_have_meant_is_said() {
    for (text, meant) in [
        ("64M", Some("64MiB")),
        ("64 g", Some("64GiB")),
        ("1.5T", Some("1.5TiB")),
        ("M", None),
        ("64X", None),
        ("x64M", None),
        ("", None),
    ] {
        assert_eq!(size_meant(text).as_deref(), meant, "{text}");
    }
}

#[test]
fn a_volume_that_the_file_lacks_is_named_with_those_it_has() {
    let agreed = good().agreement().expect("complete");
    let config = parse(&GOOD.replace("\"vol1\"", "\"volume1\"")).expect("good");
    let error = config.local_volumes(&agreed).expect_err("one is missing").to_string();
    assert!(error.contains("the pair has a volume vol1, here is only: vol0, volume1;"), "{error}");
}

#[test]
fn refusals_name_file_line_key_and_what_is_allowed() {
    let cases = [
        ("data_dir = \"a\"", "data_dri = \"a\""),
        ("[metrics]", "[metricks]"),
        ("tls = \"off\"", "tls = \"on\""),
        ("size = \"1GiB\"", "size = \"1 GiBit\""),
        ("size = \"1GiB\"", "size = \"1G\""),
        ("size = \"1GiB\"", "size = -5"),
        ("size = \"1GiB\"", "size = 64MiB"),
        ("size = \"1GiB\"", "size = true"),
        ("size = \"1GiB\"", "size = \"1000 B\""),
        ("size = \"1GiB\"", "size = \"2PiB\""),
        ("size = 4096", "size = 0"),
        ("name = \"a\"", "name = \"a/b\""),
        ("site = \"left\"", "site = "),
        ("address = \"127.0.0.11:10810\"", "address = \"127.0.0.11\""),
        ("address = \"127.0.0.11:10810\"", "address = \"0.0.0.0:10810\""),
        ("address = \"127.0.0.11:10810\"", "address = \"[::1]:10810\""),
        ("record_dirs = [\"a/record-1\", \"a/record-2\"]", "record_dirs = [\"a\"]"),
        ("\"a/record-2\"", "\"a/record-1\""),
        ("dir = \"pki/a\"", ""),
        ("[tls]\ndir = \"pki/a\"", ""),
        ("name = \"b\"", "name = \"a\""),
        ("address = \"127.0.0.12:10810\"", "address = \"127.0.0.11:10810\""),
        ("listen = \"127.0.0.11:10813\"", "listen = \"127.0.0.11:10811\""),
        ("listen = \"127.0.0.11:10813\"", "listen = \"127.0.0.11:0\""),
        ("[pair]\n", "[pair]\npreferred = \"c\"\n"),
        ("[pair]\n", "[pair]\ntimers = \"fast\"\n"),
        ("[pair]\n", "[pair]\nread_mode = \"quick\"\n"),
        ("id = \"00112233-4455-6677-8899-aabbccddeeff\"", "id = \"0011\""),
        ("id = \"00112233-4455-6677-8899-aabbccddeeff\"", &format!("id = \"{}\"", "0".repeat(32))),
        ("name = \"vol1\"", "name = \"vol0\""),
        ("id = \"2011", "id = \"1011"),
        ("/srv/vol1.img", "a/vol0.img"),
        ("direct = \"on\"", "direct = \"yes\""),
        ("name = \"w\"", "name = \"b\""),
        ("name = \"w\",", "name = \"w\", port = 1,"),
        ("[node]\n", "[node]\nlog = \"stretch=loud\"\n"),
        ("[node]\n", "[node]\nname = \"x\"\n"),
    ];
    let mut report = String::new();
    for (from, to) in cases {
        let to_line = to.trim().replace('\n', " / ");
        report.push_str(&format!("{to_line}\n  => {}\n", refusal(from, to)));
    }
    insta::assert_snapshot!(report);
}

#[test]
fn too_many_volumes_are_refused() {
    let mut text = GOOD.to_owned();
    for index in 2..=base::limits::VOLUMES_MAX {
        text.push_str(&format!("[[volume]]\nname = \"v{index}\"\npath = \"v{index}\"\n"));
    }
    let message = parse(&text).expect_err("65 volumes").to_string();
    assert!(message.contains("65 volumes; at most 64"), "{message}");
}

#[test]
fn init_needs_pair_and_sizes_and_a_node_does_not() {
    let config = good();
    let agreement = config.agreement().expect("complete");
    assert_eq!(agreement.config_seq, 1);
    assert_eq!(agreement.volumes.len(), 2);
    let without = parse(&GOOD.replace("size = \"1GiB\"\n", "")).expect("a node can use it");
    let message = without.agreement().expect_err("no size").to_string();
    assert!(message.contains("volume[0].size"), "{message}");
    assert!(message.contains("stretch init needs it"), "{message}");
    let without = parse(&GOOD.replace("[pair]", "[peer2]")).expect_err("unknown").to_string();
    assert!(without.contains("peer2"), "{without}");
}

#[test]
fn differences_are_listed() {
    let agreed = good().agreement().expect("complete");
    assert_eq!(agreed.differences(&good()), []);
    let text = GOOD
        .replace("1GiB", "2GiB")
        .replace("[pair]\n", "[pair]\npreferred = \"b\"\ntimers = \"metro\"\n")
        .replace("vol1", "vol2");
    let differences: Vec<_> =
        agreed.differences(&parse(&text).expect("good")).iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(differences.join("\n"), @r"
    pair.preferred: agreed a, the TOML says b
    pair.timers: agreed default, the TOML says metro
    volume vol0.size: agreed 1.0 GiB (1073741824 bytes), the TOML says 2.0 GiB (2147483648 bytes)
    volume vol1: agreed present, the TOML says absent
    volume vol2: agreed absent, the TOML says present
    ");
}

#[test]
fn a_pair_volume_without_a_local_path_is_named() {
    let agreed = good().agreement().expect("complete");
    let local = parse(&GOOD.replace("name = \"vol1\"", "name = \"other\"")).expect("good");
    let message = local.local_volumes(&agreed).expect_err("vol1 has no path").to_string();
    assert!(message.contains("the pair has a volume vol1"), "{message}");
    let config = good();
    let paths: Vec<_> =
        config.local_volumes(&agreed).expect("both").iter().map(|v| &v.name).cloned().collect();
    assert_eq!(paths, agreed.volumes.iter().map(|v| v.name.clone()).collect::<Vec<_>>());
}

#[test]
fn the_pair_file_reads_back_and_is_golden() {
    let agreed = good().agreement().expect("complete");
    let bytes = agreed.encode();
    insta::assert_snapshot!(String::from_utf8_lossy(&bytes));
    assert_eq!(PairConfig::decode(&bytes).expect("reads back"), agreed);
}

#[test]
fn every_damaged_pair_file_is_refused() {
    let bytes = good().agreement().expect("complete").encode();
    for index in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 0x04;
        assert!(PairConfig::decode(&damaged).is_err(), "byte {index}");
        assert!(PairConfig::decode(&bytes[..index]).is_err(), "cut at {index}");
    }
    let newer = String::from_utf8_lossy(&bytes).replacen("stretch-pair 1", "stretch-pair 2", 1);
    let error = PairConfig::decode(newer.as_bytes()).expect_err("from the future");
    assert_eq!(error.to_string(), "has format 2, this build reads format 1");
}

#[test]
fn sizes() {
    for (text, bytes) in [
        ("512", Some(512)),
        ("1GiB", Some(1 << 30)),
        ("1 GiB", Some(1 << 30)),
        ("1.5MiB", Some(3 << 19)),
        ("4kB", Some(4000)),
        ("4KiB", Some(4096)),
        ("1PiB", Some(1 << 50)),
        ("1G", None),
        ("GiB", None),
        ("", None),
        ("1 Gib", None),
        ("-1", None),
        ("1e9", None),
    ] {
        assert_eq!(parse_size(text), bytes, "{text}");
    }
}
